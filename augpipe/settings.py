"""What a recipe says beside its ops, where it is more than a number."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from augpipe.errors import did_you_mean
from augpipe.spec import Number, Text


class BoxRules(BaseModel):
    """Which boxes are kept after the geometry."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    min_area: Annotated[float, Number(0, None, "pixels")] = 1.0
    """Boxes whose visible area is smaller are dropped."""
    min_visibility: Annotated[float, Number(0, 1, "of the box's area")] = 0.0
    """Boxes of which a smaller share is still in the image are dropped."""


class CacheRule(BaseModel):
    """Where is kept what `sample` always does alike: decoding, and ops before the first draw."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    where: Annotated[str, Text("memory, or a folder")]
    """`memory`, or a folder on a local disk."""
    max_gb: Annotated[float, Number(0, None, "gigabytes", above=True)] = 10.0
    """The most to keep, in 10⁹ bytes; what does not fit is done anew each time."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"where": value}
        if not isinstance(value, dict | CacheRule):
            raise ValueError("must be memory, a folder, or a mapping of where and max_gb")
        return value

    @model_validator(mode="after")
    def _no_near_miss(self) -> Self:
        where = self.where
        if where != "memory" and "/" not in where and did_you_mean(where.lower(), ["memory"]):
            raise ValueError(f"'{where}' is not memory; a folder of that name is ./{where}")
        return self
