"""Moves in the latent space of an autoencoder: an image becomes another of its kind."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np

from augpipe.ir import Latent, Meaning
from augpipe.ir.combined import LatentKind, LatentNoiseKind
from augpipe.ops.base import Probed
from augpipe.rng import Draws
from augpipe.spec import Choice, Flag, Number, Pair, Range, Text
from augpipe.types import Floats, Frame

Weights = Annotated[str, Text("bundled, or a file of `augpipe fit autoencoder`")]


class LatentNoise(Probed):
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

    sigma: Annotated[Pair, Range(0, 4, "latent deviations", neutral=0)] = (0.0, 0.25)
    """Strength of the noise, drawn uniformly for each image."""
    noise: Annotated[LatentNoiseKind, Choice(("iid", "lowfreq", "style"))] = "iid"
    """What is moved."""
    model: Weights = "bundled"
    """The autoencoder's weights."""
    delta: Annotated[bool, Flag()] = True
    """Whether the change is added to the image; otherwise out = D(z'), blurred as D is."""

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        return (("autoencoder", self.model), *super().files)

    def means(self, draw: Draws, frame: Frame) -> Latent:
        return Latent(
            np.ones(len(draw), bool),
            draw.uniform("sigma", *self.sigma),
            draw.note("field", draw.key("field")),
            self.noise,
            self.model,
            self.delta,
            self.probe or "",
            self.confidence,
        )


class _OfAClass(Probed):
    """An op that takes other images of the batch which have the same class."""

    kind: ClassVar[type[Meaning] | None] = Latent
    company: ClassVar[bool] = True
    sections: ClassVar[tuple[str, ...]] = ("batch",)

    model: Weights = "bundled"
    """The autoencoder's weights."""
    delta: Annotated[bool, Flag()] = True
    """Whether the change is added to the image; otherwise out = D(z'), blurred as D is."""

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        return (("autoencoder", self.model), *super().files)

    def towards(self, draw: Draws, kind: LatentKind, amount: Floats, neighbours: int = 0) -> Latent:
        """Returns the meaning with fresh keys, one an image."""
        on, key = np.ones(len(draw), bool), draw.note("key", draw.key("key"))
        gate = (self.probe or "", self.confidence)
        return Latent(on, amount, key, kind, self.model, self.delta, *gate, neighbours)


class _Neighbour(_OfAClass):
    """An op that moves an image along the way to a neighbour of its class."""

    main: ClassVar[str] = "lam"

    whither: ClassVar[LatentKind]

    lam: Annotated[Pair, Range(0, 1, "of the way to the neighbour")] = (0.0, 0.5)
    """How far the image is moved."""
    neighbours: Annotated[int, Number(1, 1024, "images", integer=True)] = 5
    """Among how many the neighbour is drawn."""

    def means(self, draw: Draws, frame: Frame) -> Latent:
        return self.towards(draw, self.whither, draw.uniform("lam", *self.lam), self.neighbours)


class LatentInterpolate(_Neighbour):
    """Moves an image's latents towards a neighbour of its class: z' = z + lam (z_k - z).

    z_k is one of the `neighbours` images of the batch that have the same class and lie nearest in
    latent space (Euclidean), each equally likely; lam is uniform. Needs classes; rows of shares
    go by their largest. An image without another of its class stays as it is, and the label
    stays. out = in + D(z') - D(z), see `latent_noise`. DeVries & Taylor (arXiv 1702.05538), who
    take 10 neighbours of the whole training set, at 0.5. These latents lie in space as the
    pixels do: halfway two images show through one another, as in mixup.
    """

    whither: ClassVar[LatentKind] = "interpolate"


class LatentExtrapolate(_Neighbour):
    """Moves an image's latents away from a neighbour of its class: z' = z + lam (z - z_k).

    As `latent_interpolate` but for the sign. What tells the two apart is exaggerated: DeVries &
    Taylor (arXiv 1702.05538), who find it the best of their three at 0.5.
    """

    whither: ClassVar[LatentKind] = "extrapolate"


class LatentClassResample(_OfAClass):
    """Adds noise as wide as the image's class is: z' = z + s sd n, n standard normal.

    sd is the deviation of each latent at each place over the images of the batch that have the
    same class (divided by their number), n a field of the image's own. Needs classes, see
    `latent_interpolate`; an image alone in its class stays as it is. As "Gaussian noise" of
    MODALS (Cheung & Yeung, ICLR 2021), with the batch's deviations for the training set's.
    """

    main: ClassVar[str] = "sigma"

    sigma: Annotated[Pair, Range(0, 4, "deviations of the class")] = (0.0, 0.5)
    """Strength of the noise, drawn uniformly for each image."""

    def means(self, draw: Draws, frame: Frame) -> Latent:
        return self.towards(draw, "resample", draw.uniform("sigma", *self.sigma))
