"""What the host knows of a mix of some rows of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from augpipe.backends.batched import mix as device
from augpipe.ir import Cloud, Mix, Objects, Warp
from augpipe.mixing.shapes import LEAST, still, take
from augpipe.polygons import areas
from augpipe.rng import field_words
from augpipe.targets import Batch, Boxes, hulls, move_outlines
from augpipe.types import Bools, Floats, Ints

Rules = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scene:
    """A mix of some rows of a batch, and what the host knows of it.

    Args:
        meaning: Of the k rows.
        rows: (k,), which rows of the batch.
        batch: The batch before.
        rules: The least area and the least share of a box that is seen.
        views: The layers' maps, cut to their boxes.
        framed: Each image's boxes, cut to its frame; None where there are none.
        chosen: Of pasted objects, (k,) arrays of the partner's rows.
        cut_by: The instance masks that pasted objects are cut out by; None where by boxes.
        raster: (k, H, W), what a region covers, where it is known.
        remains: (k, m, 6), what pasted objects leave of instance masks, see `device.remains`.
    """

    meaning: Mix
    rows: Ints
    batch: Batch
    rules: Rules
    views: tuple[Warp, ...]
    framed: list[Boxes] | None
    chosen: list[Ints] | None = None
    cut_by: str | None = None
    raster: Bools | None = None
    remains: Floats | None = None

    @classmethod
    def of(cls, meaning: Mix, rows: Ints, batch: Batch, rules: Rules) -> Scene:
        """Works out what needs no pixels."""
        height, width = batch.images.shape[2:]
        whole = still(np.array([height, width]))
        framed = None
        if batch.boxes is not None:
            framed = [
                replace(each, outlines=move_outlines(whole, 0, each.outlines))
                for each in batch.boxes
            ]
        views = meaning.views((height, width), cut=True)
        scene = cls(meaning, rows, batch, rules, views, framed)
        match meaning.region:
            case Cloud():
                return replace(scene, raster=_clouds(meaning.region, (height, width)))
            case Objects():
                scene = replace(scene, cut_by=scene.first_instances())
                chosen = [scene.choose(k, meaning.region) for k in range(len(rows))]
                scene = replace(scene, chosen=chosen)
                return scene if scene.cut_by else replace(scene, raster=scene.pasted_boxes())
        return scene

    @property
    def size(self) -> tuple[int, int]:
        """Returns (height, width)."""
        height, width = self.batch.images.shape[2:]
        return height, width

    def tied(self, name: str) -> bool:
        """Whether instance masks stand row by row with the boxes."""
        boxes, counts = self.batch.boxes, self.batch.instances[name]
        return boxes is not None and [len(b.outlines) for b in boxes] == counts.tolist()

    def first_instances(self) -> str | None:
        """Returns the name of the masks that objects are cut out by."""
        names = [n for n in self.batch.instances if self.batch.boxes is None or self.tied(n)]
        return names[0] if names else None

    def choose(self, k: int, region: Objects) -> Ints:
        """Returns the rows of the objects that are pasted: taken, and enough of them seen."""
        partner = int(self.meaning.partner[k, 0])
        boxes = self.framed
        if boxes is None:
            assert self.cut_by is not None
            count = int(self.batch.instances[self.cut_by][partner])
        else:
            count = len(boxes[partner].outlines)
        taken = field_words(int(region.key[k]), count) < region.chance * 2.0**32
        if boxes is not None:
            outlines = boxes[partner].outlines
            moved = move_outlines(self.views[0], k, outlines)
            taken &= self.enough(areas(moved.seen), areas(moved.whole))
        return np.flatnonzero(taken)

    def pasted_boxes(self) -> Bools:
        """Returns (k, H, W): the pixels whose centres lie in a pasted box."""
        assert self.framed is not None
        assert self.chosen is not None
        out = np.zeros((len(self.rows), *self.size), bool)
        for k, chosen in enumerate(self.chosen):
            outlines = take(self.framed[self.meaning.partner[k, 0]].outlines, chosen)
            moved = move_outlines(self.views[0], k, outlines)
            for x0, y0, x1, y1 in np.ceil(hulls(moved) - 0.5).astype(np.int64).tolist():
                out[k, y0:y1, x0:x1] = True
        return out

    def chosen_mask(self) -> Bools | None:
        """Returns (k, m): which of the partner's instance masks are pasted; None if none is."""
        if self.cut_by is None or self.chosen is None:
            return None
        out = np.zeros((len(self.rows), self.batch.masks[self.cut_by].shape[1]), bool)
        for k, chosen in enumerate(self.chosen):
            out[k, chosen] = True
        return out

    def seeing(self, layers: device.Layers) -> Scene:
        """Returns this with what pasted masks cover, as far as boxes and keypoints need it."""
        assert self.cut_by is not None
        assert layers.cover is not None
        out = self
        if self.batch.boxes is not None:
            left = device.remains(layers, self.batch.masks[self.cut_by])
            out = replace(out, remains=left.cpu().numpy().astype(np.float64))
        if self.batch.points is not None:
            out = replace(out, raster=layers.cover[:, 0].cpu().numpy())
        return out

    def weights(self) -> Floats:
        """Returns (k, 1 + m): the share that an image and each layer have of its area."""
        height, width = self.size
        x0, y0, x1, y1 = np.moveaxis(self.meaning.box, -1, 0)
        area = ((x1 - x0) * (y1 - y0)).astype(np.float64)
        if self.raster is not None:
            area = self.raster.sum(axis=(1, 2), dtype=np.float64)[:, None]
        laid = self.meaning.opacity * area  # of opaque layers whole numbers: their sum is exact
        own = height * width - laid.sum(axis=1, keepdims=True)
        return np.concatenate([own, laid], axis=1) / (height * width)

    def enough(self, seen: Floats, whole: Floats) -> Bools:
        """Returns (N,): whether boxes stay, by the area seen of them and their own."""
        area, share = self.rules
        stays = (seen >= area) & (seen >= share * whole * (1.0 - 1e-9))
        return np.asarray(stays & (seen > LEAST))

    def opaque(self, k: int) -> Ints:
        """Returns the layers of row k through which nothing is seen."""
        # In float32, as the device compares it.
        return np.flatnonzero(self.meaning.opacity[k].astype(np.float32) >= 1.0)


def _clouds(region: Cloud, size: tuple[int, int]) -> Bools:
    """Returns (k, H, W): the region of each row, those that are shared worked out once."""
    pairs = list(zip(region.key.tolist(), region.count.tolist(), strict=True))
    made = {pair: device.cloud(region, pairs.index(pair), size) for pair in set(pairs)}
    return np.stack([made[pair] for pair in pairs])
