"""Mixing: other images of the batch laid over each image, with their labels, masks and boxes.

Partners: the images of a batch are put into a random cyclic order, a function of the set of
their indices alone, and each image's partner is the next one; the order of the batch changes
nothing. An image without a partner (a batch of one; the last of an odd batch in mode "pair")
stays as it is. `p` is decided for each image by itself, in every mode.

Targets: classes become float rows (B, K) that sum to 1, weighted by exact areas and opacities;
multi-label rows stay in 0..1. Masks are laid over one another like the images; where opacities
lie between 0 and 1, float masks are averaged and whole-numbered ones take the stronger image's
class. Boxes and keypoints of all images are kept where they are seen; `box_weights` says which
share of each box that is, times its opacity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from augpipe.ir import Cloud, Meaning, Mix, Objects, rect
from augpipe.ops.base import Op, Probability
from augpipe.rng import Draws
from augpipe.spec import Choice, Number, Pair, Range
from augpipe.types import Bools, Floats, Frame, Ints

Mode = Literal["batch", "pair", "element"]
_MODE = Choice(("batch", "pair", "element"))
Alpha = Annotated[float, Number(0, 100, above=True)]


@dataclass(frozen=True, slots=True)
class _Company:
    """Who mixes with whom, and whose draws count.

    Args:
        order: (n,) rows in the batch's random order.
        place: (n,) where each row stands in it.
        partner: (n,) rows.
        lead: (n,) the row whose draws an image follows.
        alone: (n,) whether an image has no partner.
    """

    order: Ints
    place: Ints
    partner: Ints
    lead: Ints
    alone: Bools

    @classmethod
    def of(cls, draw: Draws, mode: Mode) -> _Company:
        """Orders a batch by a keyed uniform: no row number takes part."""
        n = len(draw)
        order = np.lexsort((draw.indices, draw.uniforms("order", 1)[:, 0]))
        place = np.empty(n, np.int64)
        place[order] = np.arange(n)
        if mode == "pair":
            after, first = place ^ 1, place & ~1
        else:
            after, first = place + 1, place if mode == "element" else np.zeros_like(place)
        alone = (after >= n) if mode == "pair" else np.full(n, n < 2)
        partner = order[np.where(alone, place, after % max(n, 1))]
        draw.note("partner", draw.indices[partner])
        return cls(order, place, partner, order[first], alone)

    def after(self, steps: Ints) -> Ints:
        """Returns (n, k): the rows that stand `steps` further on in the cyclic order."""
        n = len(self.order)
        return self.order[(self.place[:, None] + steps) % max(n, 1)]


class _Mixing(Op):
    """An op that mixes images of a batch."""

    kind: ClassVar[type[Meaning] | None] = Mix
    company: ClassVar[bool] = True
    sections: ClassVar[tuple[str, ...]] = ("batch",)

    @staticmethod
    def over(
        draw: Draws,
        company: _Company,
        box: Floats,
        opacity: Floats,
        matrix: Floats | None = None,
        region: Cloud | Objects | None = None,
    ) -> Mix:
        """Returns each image with its partner as the only layer, unless it has none."""
        n = len(draw)
        matrix = np.tile(np.eye(3), (n, 1, 1)) if matrix is None else matrix
        return Mix(
            draw.op,
            company.partner[:, None],
            matrix[:, None],
            box.astype(np.int64)[:, None],
            np.where(company.alone, 0.0, opacity)[:, None],
            region,
        )


def _share(draw: Draws, company: _Company, alpha: float) -> Floats:
    """Draws lam ~ Beta(alpha, alpha), the share that an image keeps of itself.

    By the inverse of its distribution function, so that it takes one uniform.
    """
    from scipy.special import betaincinv

    kept = betaincinv(alpha, alpha, draw.uniforms("lam", 1)[company.lead, 0])
    return np.asarray(draw.note("lam", kept))


def _cut(draw: Draws, company: _Company, kept: Floats, frame: Frame) -> Floats:
    """Draws CutMix's rectangles for the shares that images keep of themselves."""
    side = np.sqrt(1.0 - kept)
    uniform = draw.uniforms("centre", 2)[company.lead]
    edges = []
    for axis, length in enumerate((frame.width, frame.height)):
        # The sliver keeps a product that is whole in exact arithmetic from losing a pixel.
        whole = np.floor(length * side + 1e-9)
        start = np.floor(uniform[:, axis] * length) - np.floor(whole / 2.0)
        edges.append((np.clip(start, 0, length), np.clip(start + whole, 0, length)))
    (x0, x1), (y0, y1) = edges
    return np.stack([x0, y0, x1, y1], axis=1)


class Mixup(_Mixing):
    """Blends each image with its partner: out = lam x + (1 - lam) partner.

    lam ~ Beta(alpha, alpha). `mode` as in timm: "batch", one lam for all; "pair", two images
    mix with each other, with one lam; "element", a lam for each image. Labels become
    lam y + (1 - lam) y_partner. As the paper (Zhang et al., arXiv 1710.09412), whose ImageNet
    models use alpha 0.2; torchvision's MixUp and timm's Mixup have 1 there.
    """

    alpha: Alpha = 0.2
    """Of the Beta distribution: the larger, the nearer lam is to 1/2."""
    mode: Annotated[Mode, _MODE] = "batch"
    """Who shares a lam: the batch, pairs, or nobody."""

    def means(self, draw: Draws, frame: Frame) -> Mix:
        company = _Company.of(draw, self.mode)
        kept = _share(draw, company, self.alpha)
        return self.over(draw, company, rect(frame.sizes), 1.0 - kept)


class Cutmix(_Mixing):
    """Puts a rectangle of the partner, from the same place, over each image.

    lam ~ Beta(alpha, alpha); the rectangle has w = floor(W sqrt(1 - lam)) by
    h = floor(H sqrt(1 - lam)) pixels and begins floor(w / 2), floor(h / 2) before its centre, a
    pixel drawn uniformly; it is cut at the border. Labels are weighted by its exact area after
    the cut. As the paper (Yun et al., arXiv 1905.04899) and timm's `rand_bbox` with
    `correct_lam`.
    """

    alpha: Alpha = 1.0
    """Of the Beta distribution; 1 draws areas uniformly."""
    mode: Annotated[Mode, _MODE] = "batch"
    """Who shares a rectangle: the batch, pairs, or nobody."""

    def means(self, draw: Draws, frame: Frame) -> Mix:
        company = _Company.of(draw, self.mode)
        kept = _share(draw, company, self.alpha)
        return self.over(draw, company, _cut(draw, company, kept, frame), np.ones(len(draw)))


class MixupOrCutmix(_Mixing):
    """Does mixup, or with probability `switch_prob` cutmix: for a batch, a pair or an image.

    As timm's Mixup, which has these defaults in its training recipes. In `one_of:
    [mixup, cutmix]` each image decides for itself.
    """

    mixup_alpha: Alpha = 0.8
    """Of mixup's Beta distribution."""
    cutmix_alpha: Alpha = 1.0
    """Of cutmix's Beta distribution."""
    switch_prob: Probability = 0.5
    """Probability of cutmix."""
    mode: Annotated[Mode, _MODE] = "batch"
    """Who shares what is drawn: the batch, pairs, or nobody."""

    def means(self, draw: Draws, frame: Frame) -> Mix:
        company = _Company.of(draw, self.mode)
        cuts = draw.uniforms("switch", 1)[company.lead, 0] < self.switch_prob
        draw.note("cutmix", cuts)
        mixed = _share(draw, company, self.mixup_alpha)
        kept = np.where(cuts, _share(draw, company, self.cutmix_alpha), mixed)
        draw.note("lam", kept)
        rectangle = _cut(draw, company, kept, frame)
        box = np.where(cuts[:, None], rectangle, rect(frame.sizes))
        return self.over(draw, company, box, np.where(cuts, 1.0, 1.0 - kept))


class Resizemix(_Mixing):
    """Shrinks the whole partner and puts it somewhere on each image.

    The patch has round(s W) by round(s H) pixels, s uniform in `scale`, at least one, and lies
    anywhere within the image, each place equally likely. Labels are weighted by its area. As
    the paper (Qin et al., arXiv 2012.11101).
    """

    scale: Annotated[Pair, Range(0, 1, "of the image's sides", above=True)] = (0.1, 0.8)
    """Sides of the patch."""
    mode: Annotated[Mode, _MODE] = "batch"
    """Who shares size and place: the batch, pairs, or nobody."""

    def means(self, draw: Draws, frame: Frame) -> Mix:
        company = _Company.of(draw, self.mode)
        low, high = self.scale
        scale = draw.note("scale", low + (high - low) * draw.uniforms("scale", 1)[company.lead, 0])
        place = draw.uniforms("place", 2)[company.lead]
        frame_size = np.stack([frame.width, frame.height], axis=1)
        size = np.maximum(1.0, np.rint(scale[:, None] * frame_size))
        start = np.floor(place * (frame_size - size + 1.0))
        box = np.concatenate([start, start + size], axis=1)
        return self.over(draw, company, box, np.ones(len(draw)), _placed(start, size / frame_size))


def _placed(at: Floats, scale: Floats) -> Floats:
    """Returns (n, 3, 3), output to source: the source (n, 2) times `scale`, its origin at `at`."""
    matrix = np.tile(np.eye(3), (len(at), 1, 1))
    matrix[:, [0, 1], [0, 1]] = 1.0 / scale
    matrix[:, :2, 2] = -at / scale
    return matrix


class Fmix(_Mixing):
    """Replaces a region of irregular shape by the partner's.

    A field of random frequencies f, each damped by max(f, 1 / longer side)^decay, is cut at
    the level that leaves round(lam H W) pixels of the image, lam ~ Beta(alpha, alpha); the rest is
    the partner's. Labels are weighted by the exact count of pixels. As the paper (Harris et
    al., arXiv 2002.12047) and its code, except that frequencies above 32 cycles a side, with
    less than a millionth of the variance at decay 3, are left out.
    """

    alpha: Alpha = 1.0
    """Of the Beta distribution."""
    decay: Annotated[float, Number(2, 10)] = 3.0
    """Power by which high frequencies are damped: the larger, the smoother the region."""
    mode: Annotated[Mode, _MODE] = "batch"
    """Who shares a region: the batch, pairs, or nobody."""

    def means(self, draw: Draws, frame: Frame) -> Mix:
        company = _Company.of(draw, self.mode)
        kept = _share(draw, company, self.alpha)
        pixels = frame.sizes.prod(axis=1)
        count = pixels - np.rint(kept * pixels).astype(np.int64)
        key = draw.note("field", draw.key("field")[company.lead])
        cloud = Cloud(key, count, self.decay)
        opacity = (count > 0).astype(np.float64)
        return self.over(draw, company, rect(frame.sizes), opacity, region=cloud)


class Mosaic(_Mixing):
    """Joins four images at a random point: the image and the next three in the batch's order.

    The point is (round(u W), round(v H)), u and v uniform in `center`; the four stand around it
    in random order. Each touches the point with the corner that faces it, scaled by a factor
    uniform in `scale`, at least so much that it covers its tile; what reaches beyond the tile
    is cut off. The output has the input's size; labels are weighted by the exact areas. As in
    YOLOv4 (Bochkovskiy et al., arXiv 2004.10934); at scale 1, Kornia's RandomMosaic. Batches of
    two or three repeat images.
    """

    center: Annotated[Pair, Range(0, 1, "of the image's sides")] = (0.25, 0.75)
    """Where the four images meet."""
    scale: Annotated[Pair, Range(0, 2, "times", above=True)] = (0.5, 1.0)
    """Scale of each image."""

    def means(self, draw: Draws, frame: Frame) -> Mix:
        company = _Company.of(draw, "element")
        low, high = self.center
        size = np.stack([frame.width, frame.height], axis=1)
        point = np.rint((low + (high - low) * draw.uniforms("center", 2)) * size)
        draw.note("point", point)
        least, most = self.scale
        scale = draw.note("scale", least + (most - least) * draw.uniforms("scale", 4))
        boxes, maps = [], []
        for tile, (right, down) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
            beyond = np.array([right, down], bool)
            start, stop = np.where(beyond, point, 0.0), np.where(beyond, size, point)
            covers = ((stop - start) / size).max(axis=1)
            own = np.maximum(scale[:, tile], covers)[:, None]
            boxes.append(np.concatenate([start, stop], axis=1))
            maps.append(_placed(np.where(beyond, point, point - own * size), np.tile(own, 2)))
        return Mix(
            draw.op,
            company.after(draw.permutation("tiles", 4)),
            np.stack(maps, axis=1),
            np.stack(boxes, axis=1).astype(np.int64),
            np.where(company.alone, 0.0, 1.0)[:, None] * np.ones(4),
        )


class CopyPaste(_Mixing):
    """Pastes some of the partner's objects, with their boxes and instance masks, on each image.

    Each object of the partner is taken with probability `objects`. All of them are mirrored
    together with probability `flip`, scaled by a factor uniform in `scale` and moved, so that
    the partner's frame lies anywhere within the image's (or, when larger, over it). What is
    pasted is cut out by its instance mask, or is its box where the batch has none. Instance
    masks and boxes that are covered lose what is covered; those that keep too little are
    dropped. As the paper (Ghiasi et al., arXiv 2012.07177), without its blurred edges; its
    large-scale jitter of both images is a `random_resized_crop` before this.
    """

    objects: Annotated[float, Number(0, 1, "probability")] = 0.5
    """Probability that an object is pasted."""
    scale: Annotated[Pair, Range(0, 4, "times", above=True)] = (1.0, 1.0)
    """Scale of what is pasted."""
    flip: Annotated[float, Number(0, 1, "probability")] = 0.5
    """Probability that what is pasted is mirrored left to right."""

    def means(self, draw: Draws, frame: Frame) -> Mix:
        company = _Company.of(draw, "element")
        low, high = self.scale
        size = np.stack([frame.width, frame.height], axis=1)
        scale = draw.uniform("scale", low, high)[:, None]
        start = np.rint(draw.uniforms("place", 2) * (1.0 - scale) * size)
        matrix = _placed(start, np.tile(scale, 2))
        flips = draw.chance("flip", self.flip)
        matrix[flips, 0] = [0.0, 0.0, 1.0] * frame.width[flips, None] - matrix[flips, 0]
        chosen = Objects(draw.note("chosen", draw.key("chosen")), self.objects)
        return self.over(
            draw, company, rect(frame.sizes), np.ones(len(draw)), matrix, region=chosen
        )
