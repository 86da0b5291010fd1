"""What the source's numbers mean, from point to point of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from augpipe.importers.args import Item, Unlike, is_number, tidy
from augpipe.ops.output import STATISTICS


@dataclass
class Levels:
    """What the source's numbers mean at a point of it: value = (level / 255 - mean) / std.

    Args:
        unit: Whether they are 0..1 (or centred) and no longer 0..255.
        mean: One number a channel, or one for all.
        std: Likewise.
    """

    unit: bool = False
    mean: list[float] = field(default_factory=lambda: [0.0])
    std: list[float] = field(default_factory=lambda: [1.0])

    @property
    def centred(self) -> bool:
        """Returns whether a mean has been taken off or a scale changed."""
        return any(self.mean) or any(each != 1.0 for each in self.std)

    def normalize(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Takes (value - mean) / std in.

        Raises:
            Unlike: The lengths do not fit.
        """
        size = max(len(mean), len(std), len(self.mean))
        if any(len(each) not in (1, size) for each in (mean, std, self.mean)):
            raise Unlike("mean and std have different numbers of channels")
        if any(each <= 0 for each in std):
            raise Unlike("std must be above 0")
        old = _wide(self.mean, size), _wide(self.std, size)
        self.mean = tidy(*(m + s * n for m, s, n in zip(*old, _wide(mean, size), strict=True)))
        self.std = tidy(*(s * n for s, n in zip(old[1], _wide(std, size), strict=True)))
        self.unit = True

    def grey(self, value: Any, *, cut: bool = False, bounded: bool = True) -> Any:
        """Returns a value of the source as grey levels, one or one a channel.

        Args:
            value: A number or a list of them.
            cut: Whether what is below 0 or above 255 becomes that.
            bounded: Whether it is refused otherwise.

        Raises:
            Unlike: It is not a number or a list of them, or not a grey level.
        """
        many = list(value) if isinstance(value, (list, tuple)) else [value]
        if not many or not all(is_number(each) for each in many):
            raise Unlike(f"fill={value} is not a grey level")
        if self.unit:
            size = max(len(many), len(self.mean))
            parts = zip(*(_wide(each, size) for each in (many, self.mean, self.std)), strict=True)
            many = tidy(*(255.0 * (v * s + m) for v, m, s in parts))
        if cut:
            many = [min(max(each, 0), 255) for each in many]
        if bounded and not all(0 <= each <= 255 for each in many):
            raise Unlike(f"fill={value} is outside the grey levels")
        return many[0] if len(set(many)) == 1 else many

    def item(self) -> Item | None:
        """Returns the op that ends the recipe, or None where levels stay 0..255."""
        if not self.unit:
            return None
        if not self.centred:
            return {"to_float": {}}
        for name, (mean, std) in STATISTICS.items():
            if (tuple(self.mean), tuple(self.std)) == (mean, std):
                return {"normalize": {"stats": name}}
        return {"normalize": {"mean": self.mean, "std": self.std}}


def _wide(values: Sequence[float], size: int) -> Sequence[float]:
    return values if len(values) == size else list(values) * size
