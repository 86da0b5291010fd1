"""What all adapters do: hold a transform's name and arguments, build it where it is needed."""

from __future__ import annotations

import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from augpipe.errors import DataError, in_a_line
from augpipe.foreign.boxes import probed, unprobed
from augpipe.foreign.facts import facts
from augpipe.foreign.libraries import transform_class
from augpipe.foreign.signature import signature
from augpipe.spec import ArgumentRefused
from augpipe.targets import Batch, Outlines, Points, Sample
from augpipe.types import Ints, Words

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class Many:
    """Images of one size and what belongs to them, after a transform; see `Adapter.many`."""

    images: Tensor
    masks: dict[str, Tensor]
    boxes: Sequence[Outlines] = ()
    points: Sequence[Points] = ()


_COUNTS = {"num_ops", "chain_depth", "mixture_width", "num_steps", "iterations"}
_MOST = 100  # of what is done one after another


class Unfit(ValueError):  # noqa: N818 - reads as a verdict, not as a failure of ours
    """An image, or what belongs to it, that a transform cannot take."""


class Adapter(ABC):
    """A transform of another library, as the meaning `ir.Foreign` holds it.

    The library's object is built once a thread and never pickled: libraries keep what they
    drew on it between drawing and applying. Adapters are equal where they do the same.

    Args:
        name: The transform's name with its library's.
        arguments: The constructor's, as a recipe holds them.
        trusted: Do not consult the facts (for the walk that finds them).
    """

    _quiet: ClassVar[threading.Lock] = threading.Lock()  # warnings' filters are the process's

    upright: ClassVar[bool] = True
    """Whether boxes travel as upright rectangles."""
    levels: ClassVar[frozenset[str]] = frozenset()
    """Arguments in the units of the image; recipes give them in grey levels 0 to 255."""

    def __init__(self, name: str, arguments: Mapping[str, Any], trusted: bool = False) -> None:
        self.name = name
        self.arguments = dict(arguments)
        self.trusted = trusted
        self._local = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.arguments, self.trusted)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Adapter):
            return NotImplemented
        return (self.name, self.arguments) == (other.name, other.arguments)

    def __hash__(self) -> int:
        return hash((self.name, repr(sorted(self.arguments.items()))))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.arguments!r})"

    @property
    def own(self) -> str:
        """Returns the transform's name in its library."""
        return self.name.partition(".")[2]

    def check(self) -> None:
        """Builds the transform once.

        Raises:
            ArgumentRefused: The library does not take the arguments, or warns of them.
        """
        for name in _COUNTS & set(self.arguments):
            if isinstance(self.arguments[name], int) and self.arguments[name] > _MOST:
                raise ArgumentRefused(f"is at most {_MOST}: it would take for ever", name)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                self.build()
            except Exception as error:
                text = self._refusal(error)
                raise self._refused(text) from error
        for each in said:
            # A change to come is not about these arguments; nor is what the class says always.
            if issubclass(each.category, UserWarning) and str(each.message) not in self._always():
                text = _in_a_line(str(each.message))
                raise self._refused(text)

    def _always(self) -> set[str]:
        """Returns what the library warns of, whatever the arguments are."""
        needed = {each.name for each in signature(self.name).arguments if each.required}
        plain = {name: value for name, value in self.arguments.items() if name in needed}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            type(self)(self.name, plain).build()
        return {str(each.message) for each in said}

    def _refusal(self, error: Exception) -> str:
        """Words what the constructor raised."""
        lines = [line.strip() for line in str(error).strip().splitlines()]
        if len(lines) >= 3 and "validation error" in lines[0]:  # pydantic's, in albumentations
            what = re.sub(r"\s*\[type=.*", "", lines[2])
            return f"{lines[1].split('.')[0]}: {what}"
        return _in_a_line(str(error) or type(error).__name__)

    def _refused(self, text: str) -> ArgumentRefused:
        library = self.name.partition(".")[0]
        return ArgumentRefused(f"{library} refuses it: {text}", self._argument(text))

    def _argument(self, text: str) -> str:
        """Returns the first given argument that a text speaks of."""
        found = [
            (match.start(), name)
            for name in self.arguments
            if (match := re.search(rf"\b{re.escape(name)}\b", text))
        ]
        if found:
            return min(found)[1]
        return next(iter(self.arguments)) if len(self.arguments) == 1 else ""

    def native(self, unit: bool = False) -> dict[str, Any]:
        """Returns the arguments as the library takes them.

        Args:
            unit: Whether images run from 0 to 1, and arguments in `levels` with them.
        """
        known = {each.name: each for each in signature(self.name).arguments}
        out: dict[str, Any] = {}
        for name, value in self.arguments.items():
            own = known[name].form.native(value)
            scaled = unit and known[name].native in self.levels
            out[known[name].native] = _scaled(own) if scaled else own
        return out

    def build(self, unit: bool = False) -> Any:
        """Returns a new object of the library, which always acts."""
        given = self.native(unit)
        if signature(self.name).has_p:
            given["p"] = 1.0
        return transform_class(self.name)(**given)

    def instance(self, unit: bool = False) -> Any:
        """Returns this thread's object."""
        built = self._local.__dict__.setdefault("built", {})
        if unit not in built:
            with self._quiet, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # `check` has said what there is to say
                built[unit] = self.build(unit)
        return built[unit]

    def limited(self, limit: str) -> bool:
        """Returns whether the transform is known to have this limit (see facts.LIMITS)."""
        return not self.trusted and facts().limited(self.name, limit)

    @property
    def spares_alpha(self) -> bool:
        """Returns whether a fourth channel stays as it is: alpha travels with the geometry only."""
        return not (self.trusted or facts().moves(self.name))

    def on_sample(self, sample: Sample, seed: int, key: str = "") -> Sample:
        """Does the transform to one image and what belongs to it.

        Args:
            sample: Not changed.
            seed: 64 bits that decide all that is drawn.
            key: What errors call the op; its name where it is left out.

        Raises:
            DataError: The transform cannot take the image or one of its targets.
        """
        size = (sample.image.shape[0], sample.image.shape[1])
        try:
            self._check_targets(sample.masks, sample.boxes, sample.points, sample.heatmaps)
            points = [probed(each, size) for each in sample.points]
            out = self.one(replace(sample, points=points), int(seed))
            pairs = zip(out.points, sample.points, strict=True)
            kept = [_kept(*pair) for pair in zip(out.boxes, sample.boxes, strict=True)]
            return replace(out, points=[unprobed(*pair) for pair in pairs], boxes=kept)
        except Unfit as error:
            raise DataError(key or self.name, str(error)) from error.__cause__

    def on_batch(self, batch: Batch, rows: Ints, seeds: Words, key: str = "") -> Batch:
        """Does the transform to some images of a batch, each by its own seed.

        Args:
            batch: Images are uint8, or float32 of grey levels 0..255; not changed.
            rows: (k,), which images.
            seeds: (k,), 64 bits each.
            key: What errors call the op; its name where it is left out.

        Returns:
            A new batch.

        Raises:
            DataError: The transform cannot take the images or one of their targets, or the
                images would leave with different sizes.
        """
        given, some = batch, len(rows) < len(batch.images)
        if not len(rows):
            return batch
        images = given.images[rows] if some else given.images
        masks = {name: each[rows] if some else each for name, each in given.masks.items()}
        boxes = [given.boxes[row].outlines for row in rows] if given.boxes is not None else []
        points = [given.points[row].points for row in rows] if given.points is not None else []
        size = (images.shape[2], images.shape[3])
        try:
            self._check_targets(list(masks.values()), boxes, points, given.heatmaps)
            probes = [probed(each, size) for each in points]
            out = self.many(images, _filled(masks), boxes, probes, seeds)
            out.points = [unprobed(*pair) for pair in zip(out.points, points, strict=True)]
            if self.upright:
                out.boxes = [_kept(*pair) for pair in zip(out.boxes, boxes, strict=True)]
            if some and out.images.shape != images.shape:
                sizes = (" × ".join(map(str, each.shape[2:])) for each in (images, out.images))
                raise Unfit(f"gives some images of a batch another size: {', '.join(sizes)}")
        except Unfit as error:
            raise DataError(key or self.name, str(error)) from error.__cause__
        for name, each in masks.items():
            if not each.shape[1]:
                out.masks[name] = each.new_empty((len(rows), 0, *out.images.shape[2:]))
        if some:
            at = _on_device(rows, given.images.device)
            out.images = given.images.index_copy(0, at, out.images)
            for name, each in given.masks.items():
                out.masks[name] = each.index_copy(0, at, out.masks[name])
        changes: dict[str, Any] = {"images": out.images}
        changes["masks"] = {name: out.masks[name] for name in given.masks}
        if given.boxes is not None:
            changes["boxes"] = list(given.boxes)
            for row, moved in zip(rows, out.boxes, strict=True):
                changes["boxes"][row] = replace(given.boxes[row], outlines=moved)
        if given.points is not None:
            changes["points"] = list(given.points)
            for row, points_moved in zip(rows, out.points, strict=True):
                changes["points"][row] = replace(given.points[row], points=points_moved)
        return replace(batch, **changes)

    def _check_targets(
        self,
        masks: Sequence[Any],
        boxes: Sequence[Outlines],
        points: Sequence[Points],
        heatmaps: Collection[Any],
    ) -> None:
        """Refuses what the transform does not carry along; a set of none is carried by any."""
        if (heatmaps or self.upright) and not self.spares_alpha:  # it moves what it is given
            if heatmaps:
                raise Unfit("moves masks by nearest, and the image has heat maps")
            if any(len(each) and each.oriented for each in boxes):
                raise Unfit("knows upright boxes only, and the image has oriented ones")
        for sets, what in ((boxes, "boxes"), (points, "keypoints")):
            if any(map(len, sets)) and self.limited(f"no {what}"):
                raise Unfit(f"takes no {what}, and the image has some")
        if masks and self.limited("no masks"):
            raise Unfit("takes no masks, and the image has some")
        for there, what in ((masks, "a mask"), (boxes, "boxes")):
            if not there and self.limited(f"needs {what}"):
                raise Unfit(f"needs {what}, and the image has none")

    def check_image(self, channels: int, floats: bool) -> None:
        """Refuses an image that the transform cannot take.

        Args:
            channels: Without an alpha that is spared.
            floats: Whether it holds floats.

        Raises:
            Unfit: It cannot.
        """
        have = f"the image has {channels} channel{'s' * (channels != 1)}"
        if channels != 3 and self.limited("RGB only"):
            raise Unfit(f"needs RGB; {have}")
        if channels != 1 and self.limited("grey only"):
            raise Unfit(f"needs grey; {have}")
        if floats and self.limited("uint8 only"):
            raise Unfit("needs a uint8 image, not one of floats")
        if not floats and self.limited("float only"):
            raise Unfit("needs an image of floats, not a uint8 one")

    def check_channels(self, before: int, after: int) -> None:
        """Refuses a result of another number of channels.

        Raises:
            Unfit: It has one.
        """
        if before != after:
            raise Unfit(f"makes {after} channels of {before}; here their number stays")

    @abstractmethod
    def one(self, sample: Sample, seed: int) -> Sample:
        """Does `on_sample` to what was found fit so far.

        Raises:
            Unfit: The transform cannot.
        """

    @abstractmethod
    def many(
        self,
        images: Tensor,
        masks: dict[str, Tensor],
        boxes: Sequence[Outlines],
        points: Sequence[Points],
        seeds: Words,
    ) -> Many:
        """Does `on_batch` to the k >= 1 images that it acts on.

        Args:
            images: (k, C, H, W).
            masks: By name, (k, m, H, W) of any dtype.
            boxes: One set an image, or none at all.
            points: One set an image, or none at all.
            seeds: (k,).

        Raises:
            Unfit: The transform cannot.
        """


def _kept(after: Outlines, before: Outlines) -> Outlines:
    """Returns boxes that came back from what knows upright ones: oriented ones did not move."""
    return before if before.oriented else after


def failed(error: Exception) -> Unfit:
    """Returns the verdict for what a library raised on an image."""
    return Unfit(f"failed: {in_a_line(error)}")


def _filled(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the masks that there are any of: a batch without objects has sets of none."""
    return {name: each for name, each in masks.items() if each.shape[1]}


def _on_device(rows: Ints, device: Any) -> Tensor:
    """Returns row numbers as a tensor on a device."""
    import torch

    return torch.as_tensor(rows, device=device)


def _in_a_line(text: str) -> str:
    return " ".join(text.split())


def _scaled(value: Any) -> Any:
    """Returns grey levels as shares of 255; words stay."""
    if isinstance(value, (tuple, list)):
        return type(value)(_scaled(each) for each in value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value / 255.0
    return value
