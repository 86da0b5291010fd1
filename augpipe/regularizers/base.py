"""What a regularizer is before it meets a model: declared fields, and `attach`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from augpipe.declared import Declared
from augpipe.regularizers.rate import Rate
from augpipe.spec import Declaration, Json, Refused, Text

if TYPE_CHECKING:
    from torch import nn

    from augpipe.regularizers.effect import Effect

AUTO = "auto"


@dataclass(frozen=True)
class On(Declaration):
    """Which sites: `auto`, a pattern of names, the name of a type, or a list of these."""

    def allowed(self) -> str:
        return "auto, a name pattern (layer[34], **.conv2), a type (Conv2d), or a list of these"

    def parse(self, value: Any) -> str | tuple[str, ...]:
        if isinstance(value, (list, tuple)):
            parts = tuple(Text("").parse(each) for each in value)
            if not parts or AUTO in parts:
                raise Refused("auto stands alone" if parts else "")
            if all(part.startswith("!") for part in parts):
                raise Refused("these only leave out: begin with what is meant, as in ['**', '!fc']")
            return parts
        one: str = Text("").parse(value)
        if one.startswith("!"):
            raise Refused(f"this only leaves out: write ['**', '{one}']")
        return one

    def schema(self) -> Json:
        one = {"type": "string", "minLength": 1}
        return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}

    def bad_values(self) -> Iterable[Any]:
        yield from ("", 1, None, [], ["auto", "fc"], {"name": "fc"}, "!fc", ["!fc"])


Sites = Annotated[str | tuple[str, ...], On()]
Probability = Annotated[Any, Rate(0, 1)]
"""A probability, or a schedule of one."""


class Regularizer(Declared):
    """A technique as a recipe names it: frozen, compared by value, knowing no model.

    A subclass declares its fields and answers `attach`. Where it acts on places in the network
    it has a field `on` of `Sites`.

    Attributes:
        structural: Whether it changes which parameters the model has. Such a one is put on first,
            whatever its place in the recipe, for others hold parameters.
    """

    structural: ClassVar[bool] = False

    @property
    def keeps_eval(self) -> bool:
        """Whether a wrapped model in `eval()` gives what the plain model gives, to the bit."""
        return True

    @property
    def watches(self) -> str | None:
        """The metric by which it chooses when to stop or which weights to keep, if any."""
        return None

    def attach(self, model: nn.Module) -> Effect:
        """Puts the technique on a model.

        Args:
            model: The model; its parameters stay the same objects under the same names.

        Returns:
            What was done; its `remove` undoes it.

        Raises:
            UsageError: The model has no site for it.
        """
        raise NotImplementedError
