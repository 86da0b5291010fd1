"""Meanings made of others, or of other images: blends, mixes, and what other libraries do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from augpipe.ir.gating import Gated, pick
from augpipe.ir.geometry import Warp, frame_lines, rect
from augpipe.types import Bools, Floats, Ints, Sampling, Words

if TYPE_CHECKING:
    from augpipe.ir import Alone


@dataclass(frozen=True, slots=True)
class Blend:
    """A weighted mean of an image and of what chains of meanings make of it.

    out = weights[0] v + sum_k weights[k + 1] chain_k(v), rounded once.

    Args:
        chains: Each a run of meanings, done one after another; none changes the size.
        weights: (n, 1 + number of chains), rows that sum to 1.
    """

    chains: tuple[tuple[Alone, ...], ...]
    weights: Floats

    def gate(self, on: Bools) -> Blend:
        """Returns this where `on`, the identity elsewhere."""
        alone = np.zeros(self.weights.shape[1])
        alone[0] = 1.0
        return replace(self, weights=pick(on, self.weights, alone))


@dataclass(frozen=True, slots=True)
class Foreign(Gated):
    """What a transform of another library does, seeded image by image.

    Args:
        transform: The adapter of the transform (augpipe/foreign).
        key: (n,), the seeds.
    """

    transform: Any
    key: Words


LatentNoiseKind = Literal["iid", "lowfreq", "style"]
LatentKind = LatentNoiseKind | Literal["interpolate", "extrapolate", "resample"]


@dataclass(frozen=True, slots=True)
class Latent(Gated):
    """Images moved in the latent space of an autoencoder (augpipe/learned/noise.py).

    Args:
        amount: (n,), how far; 0 is the identity.
        key: (n,), of the noise fields and of the choice of a neighbour.
        kind: What is moved, or whither.
        model: "bundled", or a file of weights.
        delta: Whether the change is added to the image, or the decoded image stands for it.
    """

    amount: Floats
    key: Words
    kind: LatentKind
    model: str
    delta: bool
    probe: str = ""
    """A classifier's file: where it does not see the class of before, the image stays as it is."""
    confidence: float = 0.0
    """Which probability of the class the probe has to see."""
    neighbours: int = 0
    """Among how many of its class an image's neighbour is chosen."""

    @property
    def company(self) -> bool:
        """Whether it takes the other images of the batch and their classes."""
        return self.kind in ("interpolate", "extrapolate", "resample")

    def taking(self, rows: Ints) -> Latent:
        """Returns this for some of the images."""
        changes = {name: getattr(self, name)[rows] for name in ("on", "amount", "key")}
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Generated(Gated):
    """Images that give way to generated ones of their class (augpipe/learned/replacing.py).

    Args:
        key: (n,), of the noise that an image is made from.
        model: "bundled", or a file of weights.
        truncation: Factor on the noise.
        weight: Of the labels of generated images.
        probe: A classifier's file: where it sees another class, the image stays; "" for none.
        confidence: Which probability of the class the probe has to see.
    """

    key: Words
    model: str
    truncation: float
    weight: float
    probe: str = ""
    confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class Taught(Gated):
    """Images that an augmentation network augments (augpipe/learned/taught.py).

    Args:
        key: (n,), of the noise.
        model: A file of weights.
        probe: A classifier's file: where it sees another class, the image stays; "" for none.
        confidence: Which probability of the class the probe has to see.
    """

    key: Words
    model: str
    probe: str = ""
    confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class Cloud:
    """The region of FMix: the pixels where a random low-frequency field is lowest.

    The field is the inverse Fourier transform of complex normals divided by
    max(frequency, 1 / longer side)^decay (backends/batched/mix.py).

    Args:
        key: (n,), of the field.
        count: (n,), how many pixels the layer takes.
        decay: The power of the spectrum.
    """

    key: Words
    count: Ints
    decay: float


@dataclass(frozen=True, slots=True)
class Objects:
    """The region of copy-paste: some of the partner's objects, each as the map carries it.

    An object is its instance mask, or its box where the batch has no instance masks. Object j
    is taken where word j of the field `key` is below chance x 2^32.

    Args:
        key: (n,), of the choice.
        chance: Probability that an object is taken.
    """

    key: Words
    chance: float


@dataclass(frozen=True, slots=True)
class Mix:
    """Images of the batch laid side by side over each image, all as they were before.

    out = (1 - sum_k a_k) v + sum_k a_k layer_k, a_k = opacity[k] inside_k, where layer_k is
    image partner[k] read at matrix[k] and inside_k is 1 within box[k], and within `region`
    where there is one. The boxes of an image's layers do not overlap.

    Args:
        op: The op's key, for errors.
        partner: (n, m), rows of the batch.
        matrix: (n, m, 3, 3), output to the partner's pixels, continuous coordinates.
        box: (n, m, 4), x0, y0, x1, y1 in whole pixels of the output.
        opacity: (n, m), 0 to 1; 0 where nothing is mixed.
        region: What the only layer is cut to; its box is the frame, its opacity 0 or 1.
    """

    op: str
    partner: Ints
    matrix: Floats
    box: Ints
    opacity: Floats
    region: Cloud | Objects | None = None

    def gate(self, on: Bools) -> Mix:
        """Returns this where `on`, the identity elsewhere."""
        return replace(self, opacity=pick(on, self.opacity, np.zeros(())))

    def views(self, size: tuple[int, int], cut: bool) -> tuple[Warp, ...]:
        """Returns what each layer shows of its partners, as warps of images of one size.

        Bilinear, nearest for masks, antialiased; beyond the partner's frame lies its edge.

        Args:
            size: (height, width) of all images.
            cut: Whether what is seen ends at the layer's box.
        """
        sizes = np.tile(np.array(size, np.int64), (len(self.partner), 1))
        how = Sampling(border="edge")
        out = []
        for k in range(self.partner.shape[1]):
            lines = frame_lines(self.box[:, k].astype(np.float64))
            lines = lines if cut else lines[:, :0]
            out.append(Warp(self.matrix[:, k], sizes, sizes, rect(sizes), lines, how))
        return tuple(out)

    def taking(self, rows: Ints) -> Mix:
        """Returns the same mix for some of its images; partners stay rows of the whole batch."""
        region = self.region
        match region:
            case Cloud():
                region = replace(region, key=region.key[rows], count=region.count[rows])
            case Objects():
                region = replace(region, key=region.key[rows])
        return replace(
            self,
            partner=self.partner[rows],
            matrix=self.matrix[rows],
            box=self.box[rows],
            opacity=self.opacity[rows],
            region=region,
        )
