"""What a training came to, and the file that keeps it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from augpipe.data.encode import write_atomic
from augpipe.errors import DataError

_SHARES = ("accuracy", "train_accuracy")


@dataclass(frozen=True)
class Result:
    """What a training came to.

    Args:
        accuracy: On the images named by `measured_on`, 0 to 1, with the final weights.
        loss: The cross-entropy there.
        train_accuracy: On the training images as a test sees them.
        measured_on: "test", or "validation" where there is no test split.
        steps: Optimizer steps.
        epochs: Epochs begun.
        seconds: Of training, validation included.
        parameters: Of the network.
        train_loss: The mean loss of the last 100 steps, on images as they were augmented; None
            where it was not noted.
    """

    accuracy: float
    loss: float
    train_accuracy: float
    measured_on: str
    steps: int
    epochs: int
    seconds: float
    parameters: int
    train_loss: float | None = None

    @property
    def gap(self) -> float:
        """The generalization gap: accuracy in training less that on other images."""
        return self.train_accuracy - self.accuracy

    def __str__(self) -> str:
        return (
            f"{self.measured_on} accuracy {100 * self.accuracy:.1f} %, loss {self.loss:.3f}; "
            f"training accuracy {100 * self.train_accuracy:.1f} % (gap {100 * self.gap:+.1f}); "
            f"{self.steps} steps in {self.seconds:.0f} s"
        )

    def keep(self, path: Path, about: Mapping[str, str]) -> None:
        """Writes the result, and what it is of, as JSON."""
        text = json.dumps({**asdict(self), "about": dict(about)}, indent=1, allow_nan=False)
        write_atomic(path, text.encode())

    @classmethod
    def read(cls, path: Path) -> tuple[Result, dict[str, str]]:
        """Returns a kept result, and what it is of.

        Raises:
            DataError: The file holds no such thing.
        """
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            about = dict(said.pop("about"))
            return _checked(cls(**said)), about
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            words = f"{type(error).__name__}: {error}"
            raise DataError(path, f"is not a result ({words}); remove it to do it again") from None


def _checked(result: Result) -> Result:
    """Refuses what no training comes to.

    Raises:
        ValueError: With the field.
    """
    for each in fields(result):
        value: Any = getattr(result, each.name)
        if each.name == "measured_on":
            good = value in ("test", "validation")
        elif each.name == "train_loss" and value is None:
            good = True
        else:
            real = isinstance(value, int | float) and not isinstance(value, bool)
            good = real and math.isfinite(value) and value >= 0
            good = good and (each.name not in _SHARES or value <= 1)
        if not good:
            raise ValueError(f"{each.name} is {value!r}")
    return result
