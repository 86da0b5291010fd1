"""From what albumentations saves (`A.save`, `A.to_dict`; JSON or YAML) to a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from augpipe.errors import Place, Problem, RecipeError, UsageError
from augpipe.importers.albumentations_ops import NATIVE
from augpipe.importers.args import MISFITS, Args, Item, Native, Unlike, misfit, tidy
from augpipe.importers.draft import NOTHING, Draft, Verdict, sequence, with_p
from augpipe.spec import shorten

VERSION = "2.0.8"
_CLASS = "__class_fullname__"
_DEPTH = 40
_MOST = 2000  # transforms: YAML's aliases can repeat a list without end


def import_albumentations(text: str, source: str) -> Draft:
    """Reads a saved pipeline.

    Args:
        text: The JSON or YAML.
        source: What to call it in places.

    Raises:
        RecipeError: It is not JSON or YAML, with the place where that shows.
        UsageError: It holds no pipeline.
    """
    content = _parse(text, source)
    draft = Draft("albumentations")
    root, path = content, ""
    if isinstance(content, dict) and "transform" in content:
        root, path = content["transform"], "transform"
        version = content.get("__version__")
        draft.follows = version == VERSION
        if not draft.follows:
            words = f"saved by albumentations {version}; read as {VERSION}, which names some"
            draft.say(f"{source}: __version__", "changed", f"{words} arguments differently")
    if not isinstance(root, dict) or _CLASS not in root:
        raise UsageError(f"{source}: no {_CLASS} in it: not what albumentations saves")
    _Reader(draft, source).top(root, path or "the pipeline")
    return draft


def _parse(text: str, source: str) -> Any:
    if text.lstrip().startswith("{"):
        import json

        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            place = Place(source, error.lineno, error.colno)
            message = f"not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}"
            raise RecipeError([Problem(place, "", message)]) from None
        except ValueError:  # a number of more digits than Python reads
            raise UsageError(f"{source}: a number in it is too long") from None
        except RecursionError:
            raise UsageError(f"{source}: nested too deeply") from None
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(source, mark.line + 1, mark.column + 1) if mark else Place(source, 1, 1)
        message = f"not valid YAML: {error.problem or error.context}"
        raise RecipeError([Problem(place, "", message)]) from None
    except (yaml.YAMLError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"{source}: not readable as YAML: {first}") from None
    except RecursionError:
        raise UsageError(f"{source}: nested too deeply") from None


class _Reader:
    """Walks a saved pipeline."""

    def __init__(self, draft: Draft, source: str) -> None:
        self.draft, self.source = draft, source
        self.count = 0

    def top(self, root: dict[str, Any], path: str) -> None:
        """Reads the outermost composition, or a transform alone."""
        name = _name(root)
        if name in ("Compose", "ReplayCompose"):
            self.targets(root, path)
            p = _share(root)
            if p == 1:
                self.draft.sample = self.children(root, path, self.item)
                return
            with self.draft.inside() as at:
                items = self.children(root, path, self.item)
            if items:
                whole = with_p({"sequence": {"ops": items}}, p)
                self.draft.sample = self.draft.compose(self.at(path), at, name, whole)
            return
        self.draft.sample = self.item(root, path)

    def at(self, path: str) -> str:
        """Returns a place in words."""
        return f"{self.source}: {path}"

    def targets(self, root: dict[str, Any], path: str) -> None:
        """Reads what a Compose says of boxes and keypoints."""
        say, at = self.draft.say, self.at
        boxes, points = root.get("bbox_params"), root.get("keypoint_params")
        if isinstance(boxes, dict):
            where = at(f"{path}.bbox_params")
            kept = {key: boxes.get(key, 0.0) for key in ("min_area", "min_visibility")}
            self.draft.fields["boxes"] = kept
            say(where, "exact", "min_area, min_visibility -> boxes:")
            for key in ("min_width", "min_height", "max_accept_ratio"):
                if boxes.get(key):
                    say(where, "dropped", f"{key}={boxes[key]}")
            form = f"format={boxes.get('format')}, label_fields={boxes.get('label_fields')}"
            say(where, "changed", f"{form}: augpipe reads boxes by their type or file format")
        if isinstance(points, dict):
            where = at(f"{path}.keypoint_params")
            form = f"format={points.get('format')}, label_fields={points.get('label_fields')}"
            say(where, "changed", f"{form}: augpipe reads keypoints by their type or file format")
            if points.get("remove_invisible", True):
                say(where, "changed", "remove_invisible: augpipe keeps them, marked as unseen")
        others = root.get("additional_targets")
        for target, kind in others.items() if isinstance(others, dict) else ():
            where = at(f"{path}.additional_targets.{target}")
            say(where, "dropped", f"{target} ({kind}): augpipe knows targets by their type")

    def children(
        self, node: dict[str, Any], path: str, read: Callable[[Any, str], list[Item]]
    ) -> list[Item]:
        """Returns the items of all that a composition holds."""
        held = node.get("transforms")
        return [
            item
            for k, child in enumerate(held if isinstance(held, list) else ())
            for item in read(child, f"{path}.transforms[{k}]")
        ]

    def branch(self, child: Any, path: str, always: bool = False) -> list[Item]:
        """Returns one item for one child.

        Args:
            child: What was saved.
            path: Where it stands.
            always: The composition decides whether it acts; its own p does not count. SomeOf
                and RandomOrder look at theirs all the same.
        """
        keeps = isinstance(child, dict) and _name(child) in ("SomeOf", "RandomOrder")
        if always and isinstance(child, dict) and not keeps:
            child = {**child, "p": 1.0}
        return [sequence(self.item(child, path))]

    def forced(self, child: Any, path: str) -> list[Item]:
        """Returns one item for one child whose own p does not count."""
        return self.branch(child, path, always=True)

    def item(self, node: Any, path: str) -> list[Item]:
        """Returns the items that a saved transform becomes."""
        where = self.at(path)
        self.count += 1
        if self.count > _MOST or path.count(".transforms[") > _DEPTH:
            raise UsageError(f"{where}: too many transforms, or nested too deeply")
        if not isinstance(node, dict) or not isinstance(node.get(_CLASS), str):
            self.draft.say(where, "dropped", f"there is no {_CLASS}")
            return []
        name = _name(node)
        if name == "Compose" and node.get("p", 1.0) == 1:
            return self.children(node, path, self.item)
        if name in _COMPOSED:
            with self.draft.inside() as at:
                return self.composed(name, node, path, at)
        args = Args({k: v for k, v in node.items() if k not in (_CLASS, "always_apply")})
        if name in _NOTHING:
            self.draft.say(where, *_NOTHING[name])
            return []
        if name in _ENDS:
            try:
                if self.draft.depth or args.take("p", 1.0) != 1:
                    raise Unlike("it may only end a recipe, for every image")
                verdict, text = _ENDS[name](args, self.draft)
                self.draft.say(where, verdict, f"{name} -> {text}")
            except MISFITS as error:
                self.draft.say(where, "dropped", f"{name}: {misfit(error)}")
            return []
        native, why = None, ""
        try:
            if name in NATIVE:
                p = args.number("p", 0.5)
                native = NATIVE[name](args)
                native = Native([_at(item, p) for item in native.items], native.changes)
                if unread := args.unread():
                    given = ", ".join(f"{key}={args.values[key]}" for key in unread)
                    raise Unlike(f"{given} has no native counterpart")
        except MISFITS as error:
            native, why = None, misfit(error)
        late = self.draft.levels.unit
        items = self.draft.place(where, name, native, why, _worded(args.values))
        if late and items:
            text = f"{name} follows Normalize or ToFloat; here it acts before it, on 0..255"
            self.draft.say(where, "changed", text)
        return items

    def composed(self, name: str, node: dict[str, Any], path: str, at: int) -> list[Item]:
        """Returns the item of a composition inside another."""
        where, nodes = self.at(path), node.get("transforms")
        if not isinstance(nodes, list) or not nodes:
            self.draft.say(where, "dropped", f"{name}: it holds nothing")
            return []
        numbers = [node.get("p", 1.0), *(e.get("p", 1.0) for e in nodes if isinstance(e, dict))]
        odd = [each for each in numbers if not isinstance(each, int | float)]
        odd += [each for each in (node.get("n", 1),) if not isinstance(each, int)]
        if odd:
            self.draft.say(where, "dropped", f"{name}: {shorten(odd[0])} is not a number it takes")
            return []
        p, changes = _share(node), []
        if name in ("OneOf", "OneOrOther"):
            ops = self.children(node, path, self.forced)
            item: Item = {"one_of": {"ops": ops}}
            weights = [_share(each) for each in nodes]
            if name == "OneOrOther":
                weights, p = [p, 1.0 - p], 1.0
            if len(set(weights)) > 1:
                item["one_of"]["weights"] = tidy(*weights)
        elif name in ("SomeOf", "RandomOrder"):
            ops = self.children(node, path, self.branch)
            count = node.get("n", 1)
            count = min(count, len(ops))
            if name == "RandomOrder" and count == len(ops):
                item = {"shuffle": {"ops": ops}}
            else:
                item = {"some_of": {"ops": ops, "count": [count, count]}}
                if name == "RandomOrder" and count > 1:
                    changes.append("the chosen act in the listed order, there in a random one")
            if node.get("replace"):
                changes.append("replace=True: here no op is chosen twice")
        else:
            ops = self.children(node, path, self.item)
            item = {"sequence": {"ops": ops}}
        if all(op == NOTHING for op in ops):
            self.draft.say(where, "dropped", f"{name}: nothing in it was carried over")
            return []
        return self.draft.compose(where, at, name, with_p(item, p), *changes)


def _name(node: dict[str, Any]) -> str:
    return str(node.get(_CLASS)).rpartition(".")[2]


_INTER = ("nearest", "linear", "cubic", "area", "lanczos4", "linear_exact", "nearest_exact")
_BORDER = ("constant", "replicate", "reflect", "wrap", "reflect_101")


def _worded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments with OpenCV's flags by the words that foreign ops have for them."""
    words = {"interpolation": _INTER, "mask_interpolation": _INTER, "border_mode": _BORDER}
    words |= {"upscale": _INTER, "downscale": _INTER}
    out = {}
    for name, value in values.items():
        known = words.get(name, ())
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(known):
            value = known[value]
        out[name] = _worded(value) if name == "interpolation_pair" else value
    return out


def _at(item: Item, p: float) -> Item:
    """Returns an item with this p."""
    return {name: {**parameters, "p": p} for name, parameters in item.items()}


def _share(node: Any) -> float:
    """Returns a node's p; albumentations writes it always."""
    p = node.get("p", 1.0) if isinstance(node, dict) else 1.0
    return min(max(float(p), 0.0), 1.0) if isinstance(p, (int, float)) else 1.0


_COMPOSED = ("Compose", "OneOf", "OneOrOther", "SomeOf", "RandomOrder", "Sequential")


# -------------------------------------------------------- how images leave


def _normalize(args: Args, draft: Draft) -> tuple[Verdict, str]:
    if args.take("normalization", "standard") != "standard":
        raise Unlike(f"normalization={args.values['normalization']}")
    mean, std = args.take("mean"), args.take("std")
    mean, std = (v if isinstance(v, list) else [v] for v in (mean, std))
    if (top := args.take("max_pixel_value", 255.0)) not in (255, None):
        draft.levels.normalize([float(each) for each in mean], [float(each) for each in std])
        return "changed", f"normalize; max_pixel_value={top}: here white is 255 (or 1.0) itself"
    draft.levels.normalize([float(each) for each in mean], [float(each) for each in std])
    return "exact", "normalize, at the recipe's end"


def _to_float(args: Args, draft: Draft) -> tuple[Verdict, str]:
    if args.take("max_value") not in (None, 255):
        raise Unlike(f"max_value={args.values['max_value']}")
    draft.levels.unit = True
    return "exact", "to_float, at the recipe's end"


def _from_float(args: Args, draft: Draft) -> tuple[Verdict, str]:
    if draft.levels.centred or args.take("dtype", "uint8") != "uint8":
        raise Unlike("levels leave as they stand")
    draft.levels.unit = False
    return "exact", "levels are 0..255 again"


def _to_tensor(args: Args, draft: Draft) -> tuple[Verdict, str]:
    return "exact", "nothing: the loader makes tensors, and a tensor that comes in goes out"


_ENDS: dict[str, Callable[[Args, Draft], tuple[Verdict, str]]] = {
    "Normalize": _normalize,
    "ToFloat": _to_float,
    "FromFloat": _from_float,
    "ToTensorV2": _to_tensor,
}

_NOTHING: dict[str, tuple[Verdict, str]] = {
    "NoOp": ("exact", "NoOp: nothing to do"),
    "ToRGB": ("changed", "ToRGB: files are decoded to RGB; a grey array stays grey"),
}
