"""What a recipe says beside its ops, where it is more than a number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from augpipe.errors import did_you_mean
from augpipe.spec import Choice, Declaration, Flag, Json, Number, Refused, Text

SMALL_NETS = ("wrn_10_1", "wrn_16_1", "wrn_10_2", "wrn_28_2", "vit_small", "row_lstm")
"""The networks that come with the package (networks/small.py)."""


def known_networks(name: str) -> str:
    """Says what a network may be called, near to a name that none has."""
    near = did_you_mean(name, SMALL_NETS) or f"known: {', '.join(SMALL_NETS)}"
    return f"{near}; others are torchvision.X and timm.X"


@dataclass(frozen=True)
class Network(Text):
    """A network's name; whether torchvision and timm have it is seen when it is built."""

    def parse(self, value: Any) -> str:
        """Returns the name."""
        name: str = super().parse(value)
        library, dot, _ = name.partition(".")
        if library in ("torchvision", "timm") if dot else name in SMALL_NETS:
            return name
        raise Refused(known_networks(name))

    def bad_values(self) -> Iterable[Any]:
        """Yields what is refused."""
        yield from (*super().bad_values(), "resnet18", "keras.X")


class BoxRules(BaseModel):
    """Which boxes are kept after the geometry."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    min_area: Annotated[float, Number(0, None, "pixels")] = 1.0
    """Boxes whose visible area is smaller are dropped."""
    min_visibility: Annotated[float, Number(0, 1, "of the box's area")] = 0.0
    """Boxes of which a smaller share is still in the image are dropped."""


class ConstraintRule(BaseModel):
    """What must hold after a section's geometry; where it does not, all is drawn again."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    min_visibility: Annotated[float, Number(0, 1, "of what was seen of a box", above=True)]
    """Every box of an image keeps at least this share of what was seen of it before."""
    retries: Annotated[int, Number(1, 255, "attempts", integer=True)] = 20
    """How often an image is drawn again at most; then the draw that keeps most is taken."""


@dataclass(frozen=True)
class FlipPairs(Declaration):
    """A list of pairs of keypoints."""

    def allowed(self) -> str:
        """Words what is allowed."""
        return "a list of pairs [left, right], keypoints counted from 0, each in one pair"

    def parse(self, value: Any) -> tuple[tuple[int, int], ...]:
        """Returns the pairs."""
        if not isinstance(value, (list, tuple)):
            raise Refused
        number = Number(0, 65535, integer=True)
        pairs = []
        for each in value:
            if not isinstance(each, (list, tuple)) or len(each) != 2:
                raise Refused
            pairs.append((int(number.parse(each[0])), int(number.parse(each[1]))))
        flat = [k for pair in pairs for k in pair]
        if len(set(flat)) < len(flat):
            twice = next(k for k in flat if flat.count(k) > 1)
            raise Refused(f"keypoint {twice} stands in it twice")
        return tuple(pairs)

    def plain(self, value: Any, defaults: bool = False) -> Any:
        """Returns the pairs as YAML holds them."""
        return [list(pair) for pair in value]

    def schema(self) -> Json:
        """Returns the JSON Schema."""
        pair = {"type": "array", "items": {"type": "integer", "minimum": 0}}
        return {"type": "array", "items": {**pair, "minItems": 2, "maxItems": 2}}

    def bad_values(self) -> Iterable[Any]:
        """Yields what is refused."""
        yield from (1, "left", [1, 2], [[1]], [[1, 2, 3]], [[-1, 2]], [[0.5, 1]], [[1, 2], [2, 3]])


class KeypointRules(BaseModel):
    """What is known of an object's keypoints."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    flip_pairs: Annotated[tuple[tuple[int, int], ...], FlipPairs()] = ()
    """Keypoints of an object, counted from 0, that change places in a mirror: left and right."""


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


class GenerateRule(BaseModel):
    """Images that `augpipe expand` adds, made by the GAN of `augpipe fit gan`, class by class.

    They have the generator's size and channels before the sample section, as a file would.
    Loaders, training and previews take no notice of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    count: Annotated[int, Number(0, 10_000_000, "images", integer=True)] = 0
    """How many for each class."""
    balance: Annotated[bool, Flag()] = False
    """Whether smaller classes are first filled up to the size of the largest."""
    model: Annotated[str, Text("bundled, or a file of `augpipe fit gan`")] = "bundled"
    """The generator's weights; it has to know every class of the dataset."""
    truncation: Annotated[float, Number(0, 2, "of the noise", above=True)] = 1.0
    """Factor on the noise: below 1 images are more usual ones, and less various."""

    @model_validator(mode="after")
    def _adds(self) -> Self:
        if not self.count and not self.balance:
            raise ValueError("adds nothing: say count: N, balance: true, or both")
        return self


class Target(Declaration):
    """How many images a class is to come to: those of another class, or a number."""

    words = ("max", "median")
    number = Number(1, 2**32, "images", integer=True)

    def allowed(self) -> str:
        """Says what is allowed."""
        return f"{' or '.join(self.words)} of the classes, or {self.number.allowed()}"

    def parse(self, value: Any) -> str | int:
        """Returns the word, or the number."""
        if not isinstance(value, str):
            return int(self.number.parse(value))
        if value in self.words:
            return value
        raise Refused(did_you_mean(value, self.words))

    def schema(self) -> Json:
        """Returns the JSON Schema of what `parse` takes."""
        return {"anyOf": [{"enum": list(self.words)}, self.number.schema()]}

    def bad_values(self) -> Iterable[Any]:
        """Yields what is refused."""
        yield from (each for each in self.number.bad_values() if not isinstance(each, str))
        yield from ("min", "maximum", "")


class BalanceRule(BaseModel):
    """To how many images `augpipe expand` brings each class, by giving small ones more copies.

    What is counted is what the new dataset holds: copies, and the originals where they are kept.
    Nothing is taken away: a class that comes to more than the target stays as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    target: Annotated[str | int, Target()]
    """`max` or `median` of what the classes come to without this, or a number."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return value if isinstance(value, dict | BalanceRule) else {"target": value}


class ClassRule(BaseModel):
    """What `augpipe expand` does otherwise for one class."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    copies: Annotated[int | None, Number(0, 2**32, "copies of each image", integer=True)] = None
    """How many copies of each image; as many as of other classes when left out."""
    strength: Annotated[float, Number(0, 10, "times", above=True)] = 1.0
    """How far from unchanged its images go: a factor on the ranges of the sample section's ops."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"copies": value} if isinstance(value, int | float | str) else value


class TrainRule(BaseModel):
    """How `augpipe train` trains."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: Annotated[str, Network("a small net (wrn_16_1), torchvision.X or timm.X")] = "wrn_16_1"
    """The network, with fresh weights."""
    epochs: Annotated[int, Number(1, 1_000_000, "epochs", integer=True)] = 20
    """How often every image is seen."""
    steps: Annotated[int | None, Number(1, 2**40, "steps", integer=True)] = None
    """How many batches to train on, instead of `epochs`."""
    batch_size: Annotated[int, Number(1, 1_000_000, "images", integer=True)] = 64
    """Images in a batch, on each device."""
    optimizer: Annotated[str, Choice(("sgd", "adam", "adamw", "rmsprop"))] = "sgd"
    """PyTorch's optimizer; sgd with Nesterov's momentum."""
    lr: Annotated[float | None, Number(0, None, above=True)] = None
    """The highest learning rate; 0.1 for sgd and 0.001 for the others when left out."""
    momentum: Annotated[float, Number(0, 1)] = 0.9
    """Of sgd."""
    schedule: Annotated[str, Choice(("cosine", "linear", "constant"))] = "cosine"
    """How the learning rate falls to 0 after the warm-up."""
    warmup: Annotated[float, Number(0, 1, "of all steps")] = 0.05
    """Share of the steps in which the learning rate rises from 0."""
    precision: Annotated[str, Choice(("float32", "bfloat16", "float16"))] = "float32"
    """What to compute in; the narrow ones with float32 weights (AMP)."""
    validation: Annotated[float, Number(0, 0.9, "of each class")] = 0.2
    """Share of the images held out, where the data has no validation split."""

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        if self.lr is not None:
            return self.lr
        return 0.1 if self.optimizer == "sgd" else 1e-3
