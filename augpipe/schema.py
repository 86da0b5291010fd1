"""The JSON Schema of recipes: completion and checks in an editor, as you type."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from augpipe.declared import Declared
from augpipe.foreign import facts
from augpipe.ops import catalogue
from augpipe.ops.foreign import all_names
from augpipe.recipe import VERSION, Recipe
from augpipe.settings import (
    BalanceRule,
    BoxRules,
    CacheRule,
    ClassRule,
    ConstraintRule,
    GenerateRule,
    KeypointRules,
    TrainRule,
)
from augpipe.spec import Declaration, Json, declaration


def schema() -> Json:
    """Returns the JSON Schema of recipes, for editors (Draft 2020-12)."""
    definitions: Json = {}
    items = _named(catalogue(), definitions, "")
    names = all_names()
    items[0]["enum"] += [name for name in names if name not in facts().examples]
    # Their parameters are known where the libraries are: `augpipe check` looks at them.
    items.append(
        {
            "type": "object",
            "propertyNames": {"enum": names},
            "additionalProperties": {"type": ["object", "null"]},
            "minProperties": 1,
            "maxProperties": 1,
        }
    )
    definitions["item"] = {"anyOf": items}
    section = {"type": "array", "items": {"$ref": "#/$defs/item"}}
    definitions["regularizer"] = {"anyOf": _regularizers(definitions)}
    top: Json = {"version": {"const": VERSION}, "extends": {"type": "string"}}
    for key in ("seed", "fuse", "classes"):
        top[key] = _field_schema(Recipe, key)
    top["boxes"] = _settings(BoxRules)
    top["keypoints"] = _settings(KeypointRules)
    top["constraint"] = {**_settings(ConstraintRule), "required": ["min_visibility"]}
    bare = [_field_schema(CacheRule, "where"), {"type": "null"}]
    top["cache"] = {"anyOf": [*bare, {**_settings(CacheRule), "required": ["where"]}]}
    top["gan_generate"] = _settings(GenerateRule)
    whole = {**_settings(BalanceRule), "required": ["target"]}
    top["balance"] = {"anyOf": [_field_schema(BalanceRule, "target"), whole]}
    own = {"anyOf": [_field_schema(ClassRule, "copies"), _settings(ClassRule)]}
    top["per_class"] = {"type": "object", "additionalProperties": own}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "augpipe recipe",
        "type": "object",
        "properties": {
            **top,
            "sample": section,
            "batch": section,
            "regularize": {"type": "array", "items": {"$ref": "#/$defs/regularizer"}},
            "train": _settings(TrainRule),
        },
        "required": ["version"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _regularizers(definitions: Json) -> list[Json]:
    """Returns the forms of a regularizer's item; adds their definitions."""
    from augpipe import regularizers

    return _named(regularizers.catalogue(), definitions, "regularize.")


def _named(shelf: Mapping[str, type[Declared]], definitions: Json, prefix: str) -> list[Json]:
    """Returns the forms of an item: a bare name, or a name with parameters."""
    forms: list[Json] = [{"enum": [name for name, cls in shelf.items() if not cls.required()]}]
    for name, cls in shelf.items():
        definitions[prefix + name] = _item_schema(cls)
        forms.append(
            {
                "type": "object",
                "properties": {name: {"$ref": f"#/$defs/{prefix}{name}"}},
                "required": [name],
                "additionalProperties": False,
            }
        )
    return forms


def _settings(cls: type[BaseModel]) -> Json:
    fields = {key: _field_schema(cls, key) for key in cls.model_fields}
    return {"type": "object", "properties": fields, "additionalProperties": False}


def _item_schema(cls: type[Declared]) -> Json:
    whole: Json = {
        "type": "object",
        "description": (cls.__doc__ or "").split("\n")[0],
        "properties": {name: _field_schema(cls, name) for name in cls.model_fields},
        "additionalProperties": False,
    }
    if required := cls.required():
        whole["required"] = required
    forms = [whole]
    if not required or required == [cls.main]:
        forms += [{"type": "null"}] if not required else []
        forms += [_field_schema(cls, cls.main)] if cls.main else []
    return whole if len(forms) == 1 else {"anyOf": forms}


def _field_schema(cls: type[BaseModel], name: str) -> Json:
    field = cls.model_fields[name]
    declared: Declaration = declaration(field.metadata)
    out = {**declared.schema(), "description": f"{field.description} ({declared.allowed()})"}
    if not field.is_required() and not isinstance(field.default, BaseModel):
        out["default"] = list(field.default) if isinstance(field.default, tuple) else field.default
    return out
