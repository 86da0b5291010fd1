"""Moves in the latent space of an autoencoder: an image becomes another of its kind."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np

from augpipe.ir import Latent, Meaning
from augpipe.ir.combined import LatentKind
from augpipe.ops.base import Op
from augpipe.rng import Draws
from augpipe.spec import Choice, Flag, Pair, Range, Text
from augpipe.types import Frame


class LatentNoise(Op):
    """Adds noise to an image's latents and shows what that changes: out = in + D(z') - D(z).

    z = E(in) are the latents of an autoencoder of small convolutions, 8 numbers for each 4 × 4
    pixels; n are normal numbers of the image's own field, s is drawn uniformly in `sigma`, and
    the deviations are those that the weights were measured with:

    iid       z' = z + s std n, each number by itself
    lowfreq   the same with n drawn at a quarter of the latents' resolution and read bilinearly
    style     each latent's mean and deviation over the image are moved: DSU (Li et al., arXiv
              2202.03958), by the deviations of the fitted images for those of the batch

    After DeVries & Taylor (arXiv 1702.05538), with the difference added to the image: what the
    autoencoder cannot tell stays as it is. At 0 the image is the same to the bit. Works on grey
    and colour at any size; alpha stays. Large sigmas change what is seen: the weights' model
    card (augpipe/learned/weights/README.md) says how often a classifier still tells the same.
    """

    kind: ClassVar[type[Meaning] | None] = Latent
    sections: ClassVar[tuple[str, ...]] = ("batch", "sample")
    main: ClassVar[str] = "sigma"

    sigma: Annotated[Pair, Range(0, 4, "latent deviations")] = (0.0, 0.25)
    """Strength of the noise, drawn uniformly for each image."""
    noise: Annotated[LatentKind, Choice(("iid", "lowfreq", "style"))] = "iid"
    """What is moved."""
    model: Annotated[str, Text("bundled, or a file of `augpipe fit autoencoder`")] = "bundled"
    """The autoencoder's weights."""
    delta: Annotated[bool, Flag()] = True
    """Whether the change is added to the image; otherwise out = D(z'), blurred as D is."""

    def means(self, draw: Draws, frame: Frame) -> Latent:
        return Latent(
            np.ones(len(draw), bool),
            draw.uniform("sigma", *self.sigma),
            draw.note("field", draw.key("field")),
            self.noise,
            self.model,
            self.delta,
        )
