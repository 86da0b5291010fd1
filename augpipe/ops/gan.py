"""Images that a GAN makes, in the place of real ones."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np

from augpipe.ir import Generated, Meaning
from augpipe.ops.base import Probability, Probed
from augpipe.rng import Draws
from augpipe.spec import IntPair, Number, Range, Text
from augpipe.types import Frame

_ALWAYS = (0, 2**32 - 1)


class GanReplace(Probed):
    """Puts a generated image of the same class in the place of an image.

    out = G(truncation n, y), n standard normal numbers of the image's own field, y its class; G is
    the generator that `augpipe fit gan` fitted to the dataset. Classes are told by name where the
    dataset has names, else by number. Images of another size than the generator's are
    resized, bilinear and antialiased. The label stays; with a `weight` below 1 labels become
    rows, and that of a generated image is multiplied by it, so that cross-entropy is. Rows of
    shares go by their largest. An image without a class (-1, or a row of zeros) stays.

    Few generated images beside real ones may help where data are scarce and often do not: for
    ImageNet and CIFAR-10 they do not replace real ones (Ravuri & Vinyals, arXiv 1905.10887).
    Compare before you keep it; the report of `augpipe fit gan` says what a classifier learns
    from them alone.
    """

    kind: ClassVar[type[Meaning] | None] = Generated
    sections: ClassVar[tuple[str, ...]] = ("batch",)

    model: Annotated[str, Text("bundled, or a file of `augpipe fit gan`")] = "bundled"
    """The generator's weights."""
    truncation: Annotated[float, Number(0, 2, "of the noise", above=True)] = 1.0
    """Factor on the noise: below 1 images are more usual ones, and less various."""
    weight: Annotated[float, Number(0, 1, above=True)] = 1.0
    """Of a generated image's label."""
    epochs: Annotated[IntPair, Range(*_ALWAYS, "epochs", integer=True)] = _ALWAYS
    """The first and the last epoch, from 0, in which it acts: real images should end a training."""
    p: Probability = 0.2
    """Share of the images that are replaced."""

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        return (("gan", self.model), *super().files)

    @property
    def timed(self) -> bool:
        return self.epochs != _ALWAYS

    @property
    def relabels(self) -> bool:
        return self.weight < 1

    @property
    def misplaced(self) -> str:
        return "puts other images in place, which no mask, box or keypoint fits" if self.p else ""

    def means(self, draw: Draws, frame: Frame) -> Generated:
        first, last = self.epochs
        epoch = np.broadcast_to(np.asarray(draw.epoch), (len(draw),))
        on = (epoch >= first) & (epoch <= last)
        key = draw.note("field", draw.key("field"))
        gate = (self.probe or "", self.confidence)
        return Generated(on, key, self.model, self.truncation, self.weight, *gate)
