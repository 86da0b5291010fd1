"""What an op is: declared fields and `means()`, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import ValidationError

from augpipe.declared import Declared
from augpipe.errors import UsageError
from augpipe.ir import Meaning, Mix
from augpipe.rng import Draws
from augpipe.spec import Declaration, Json, Number, Numbers, Refused, Text
from augpipe.types import Array, Bools, Frame, Sampling

Probability = Annotated[float, Number(0, 1)]


class Op(Declared):
    """A declared transform: frozen, compared by value, with no state and no pixels.

    A subclass declares its fields (annotations from spec.py, a docstring under each) and
    answers `means`: a pure function of the draws and the frame. Its name in a recipe is its
    class name in snake case.

    Attributes:
        p: Probability that the op acts on an image; elsewhere it is the identity.
    """

    kind: ClassVar[type[Meaning] | None] = None
    rgb_only: ClassVar[bool] = False
    """Whether a grey image is an error (saturation is the identity on it instead)."""
    last: ClassVar[bool] = False
    """Whether nothing may follow it."""
    inside: ClassVar[bool] = False
    """Of a warp: whether it never looks beyond the edge of what it is given."""
    lattice: ClassVar[bool] = False
    """Of a warp: whether it maps pixels onto pixels, so that nothing is interpolated."""

    resizes: ClassVar[bool] = False
    """Whether images may leave it with another size."""

    company: ClassVar[bool] = False
    """Whether it takes other images of the batch, and the classes of all."""

    sees_boxes: ClassVar[bool] = False
    """Whether what it draws depends on the boxes."""
    sections: ClassVar[tuple[str, ...]] = ("sample", "batch")
    """Where it may stand: what needs several images stands in `batch` only."""

    p: Probability = 1.0
    """Probability that the op acts on an image."""

    def means(self, draw: Draws, frame: Frame) -> Meaning:
        """Draws this op's parameters for n images and returns what they mean.

        Args:
            draw: The op's own draws for n samples.
            frame: What may be known of the n images.
        """
        raise NotImplementedError

    def unfit(self, frame: Frame) -> Bools | None:
        """Returns (n,): which images the op cannot act on; None where it takes any."""
        return None

    def needs(self) -> str:
        """Says what an image that is `unfit` lacks."""
        return ""

    def tell(self, drawn: Mapping[str, Array]) -> str | None:
        """Words what one image drew, by name; None where the numbers say it."""
        return None

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Returns the files that it reads: what each holds, and its name."""
        return ()

    @property
    def misplaced(self) -> str:
        """Says why no mask, box or keypoint fits what it makes; "" where they fit."""
        return ""

    @property
    def timed(self) -> bool:
        """Whether it acts in some epochs only, so that the epoch has to be told."""
        return False

    @property
    def relabels(self) -> bool:
        """Whether classes become rows of shares."""
        return self.kind is Mix

    @property
    def sampling(self) -> Sampling:
        """Returns how the op reads pixels, where it reads any."""
        return Sampling()

    @property
    def sizes(self) -> bool:
        """Whether it may be what gives all images their size."""
        return self.resizes and self.p >= 1.0

    def at_strength(self, strength: float) -> Op:
        """Returns the op, acting more or less.

        Where a range's declaration knows the value x0 that changes nothing, each end x becomes
        x0 + strength (x - x0): what is drawn uniformly does too, by the same random numbers. An op
        without such a range acts `strength` times as often; but what `sizes` images stays.

        Args:
            strength: 0 or more; 1 leaves the op as it is.

        Raises:
            UsageError: It leads out of what the op allows.
        """
        ranges = {
            name: _about(each.neutral, strength, getattr(self, name))
            for name, each in self.declared().items()
            if each.neutral is not None
        }
        if ranges:
            own = {name: getattr(self, name) for name in type(self).model_fields}
            given = {name: value for name, value in own.items() if value is not None}
            try:
                return self.model_validate({**given, **ranges}) if strength != 1.0 else self
            except ValidationError as error:
                detail = error.errors(include_url=False)[0]
                where = ".".join(map(str, (self.name(), *detail["loc"])))
                words = detail["msg"].removeprefix("Value error, ")
                raise UsageError(
                    f"strength {strength:g} is too much for {where}: {words}"
                ) from None
        if self.sizes or self.last:
            return self
        return self.model_copy(update={"p": min(1.0, strength * self.p)})


def _about(neutral: float, strength: float, value: Any) -> Any:
    """Returns a number, or a range, that is `strength` times as far from the neutral one."""
    if isinstance(value, tuple):
        return tuple(_about(neutral, strength, each) for each in value)
    return neutral + strength * (value - neutral)


class Probed(Op):
    """An op that may ask a classifier whether what it did is still what it was."""

    probe: Annotated[str | None, Text("a model.safetensors of `augpipe train`")] = None
    """A classifier: an image stays as it was where the class seen in it would be another."""
    confidence: Probability = 0.8
    """Which probability of the class the probe has to see, at least."""

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        return (("model", self.probe),) if self.probe else ()


@dataclass(frozen=True)
class Ops(Declaration):
    """A list of ops."""

    def allowed(self) -> str:
        return "a list of at least one op"

    def parse(self, value: Any) -> tuple[Op, ...]:
        if not isinstance(value, (list, tuple)) or not value:
            raise Refused
        if not all(isinstance(each, Op) for each in value):
            raise Refused
        if any(op.last for op in value):
            raise Refused("normalize and to_float stand at the end of a section, not inside")
        return tuple(value)

    def plain(self, value: Any, defaults: bool = False) -> Any:
        return [op.item(defaults) for op in value]

    def schema(self) -> Json:
        return {"type": "array", "items": {"$ref": "#/$defs/item"}, "minItems": 1}

    def bad_values(self) -> Iterable[Any]:
        yield from ("rotate", [], None, [1], {"ops": []})


class Combinator(Op):
    """An op made of ops: it decides, image by image, which of them act and in what order."""

    private: ClassVar[bool] = False
    """Whether the ops inside are its own: they have its key, and only it may draw."""

    def inner(self) -> tuple[Op, ...]:
        """Returns the ops inside."""
        raise NotImplementedError

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        return tuple(each for op in self.inner() for each in op.files)

    @property
    def slots(self) -> int:
        """Returns how many times the list of ops is walked.

        An op may act in one of the walks at most: its draws have its key, whichever walk it is.
        """
        return 1

    @property
    def steps(self) -> int:
        """Returns how many steps of a plan it makes."""
        counts = (op.steps if isinstance(op, Combinator) else 1 for op in self.inner())
        return self.slots * sum(counts)

    def choose(self, draw: Draws) -> Bools:
        """Returns (n, slots, number of ops): which op acts in which walk of the list."""
        raise NotImplementedError

    def role(self, slot: int, branch: int) -> str:
        """Says which part of it an op inside plays; "" where its place says all."""
        return f"walk {slot + 1}" if self.slots > 1 else ""


class Listed(Combinator):
    """A combinator of ops that the recipe lists."""

    main: ClassVar[str] = "ops"

    ops: Annotated[tuple[Op, ...], Ops()]
    """The ops to combine."""

    def inner(self) -> tuple[Op, ...]:
        return self.ops

    def at_strength(self, strength: float) -> Op:
        """Returns the combinator with each op inside acting more or less."""
        return self.model_copy(update={"ops": tuple(op.at_strength(strength) for op in self.ops)})


class Weighted(Listed):
    """A combinator that draws among its ops."""

    weights: Annotated[tuple[float, ...] | None, Numbers(0)] = None
    """Relative weight of each op; all equal when left out."""

    def model_post_init(self, context: Any) -> None:
        """Refuses weights that do not fit the ops."""
        if self.weights is None:
            return
        if len(self.weights) != len(self.ops):
            text = f"weights has {len(self.weights)} numbers for {len(self.ops)} ops"
            raise ValueError(text)
        if sum(self.weights) <= 0:
            raise ValueError("weights must not all be 0")

    @property
    def relative(self) -> tuple[float, ...]:
        """Returns the weights, filled in."""
        return self.weights or (1.0,) * len(self.ops)


def one_hot(chosen: np.ndarray, count: int) -> Bools:
    """Returns (..., count): true at the chosen position."""
    return np.asarray(chosen[..., None] == np.arange(count))
