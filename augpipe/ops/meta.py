"""Images that a network augments which a classifier has taught."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np

from augpipe.ir import Meaning, Taught
from augpipe.ops.base import Probability, Probed
from augpipe.rng import Draws
from augpipe.spec import Text
from augpipe.types import Frame


class Meta(Probed):
    """Augments an image by a network that was fitted against a classifier of such images.

    out = T(x, y, n): colours, an affine map and a smooth residual, each acting or not
    (augpipe/learned/augmentation.py), y the image's class, n 64 normal numbers of its own field.
    The network was fitted to be hard for a classifier and fair to its teacher, by `augpipe fit
    meta` (TeachAugment, arXiv 2202.12513, with a residual). An image of a class that it does not
    know, or of none, is augmented as of no class. Networks of RGB take grey images too. Alpha
    stays.
    """

    kind: ClassVar[type[Meaning] | None] = Taught
    sections: ClassVar[tuple[str, ...]] = ("batch",)
    main: ClassVar[str] = "model"

    model: Annotated[str, Text("bundled, or a file of `augpipe fit meta`")] = "bundled"
    """The network's weights."""
    p: Probability = 0.5
    """Share of the images that are augmented."""

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        return (("meta", self.model), *super().files)

    @property
    def misplaced(self) -> str:
        return "moves what is seen, and no mask, box or keypoint with it" if self.p else ""

    def means(self, draw: Draws, frame: Frame) -> Taught:
        key = draw.note("field", draw.key("field"))
        on = np.ones(len(draw), bool)
        return Taught(on, key, self.model, self.probe or "", self.confidence)
