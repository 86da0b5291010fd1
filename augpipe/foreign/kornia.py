"""Kornia on a batch: floats from 0 to 1, parameters drawn row by row on the CPU.

Each row's parameters are drawn as for a batch of one. Where the walk found that Kornia does a
batch with such parameters as it does its images alone, the batch goes in at once; elsewhere
("row by row" in the facts) it does not: Kornia shares one kernel size or one order of steps
among the images of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from augpipe.foreign.adapter import Adapter, Many, Unfit, failed
from augpipe.foreign.seeding import Seeded
from augpipe.ir import Warp
from augpipe.targets import Outlines, Points, Sample, move_outlines, move_points
from augpipe.types import Floats, Frame, Sampling, Words

_FILLS = ("fill", "fill_value", "pad_value")
_HALF = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])  # centres to continuous

Params = dict[str, Any]


class Kornia(Adapter):
    """An augmentation of Kornia."""

    upright: ClassVar[bool] = False

    def one(self, sample: Sample, seed: int) -> Sample:
        """Refuses: Kornia takes batches of tensors."""
        raise Unfit("works on batches: it stands in 'batch:'")

    def many(
        self,
        images: Tensor,
        masks: dict[str, Tensor],
        boxes: Sequence[Outlines],
        points: Sequence[Points],
        seeds: Words,
    ) -> Many:
        """Does the augmentation to a batch; see `Adapter`."""
        alpha = None
        if images.shape[1] == 4 and self.spares_alpha:
            images, alpha = images[:, :3], images[:, 3:]
        self.check_image(images.shape[1], images.is_floating_point())
        try:
            with torch.no_grad():
                out, moved, matrix = self._rows(images, masks, seeds, bool(boxes or points))
            warp = None if matrix is None else _warp(matrix, images.shape, out.shape)
        except MemoryError:
            raise
        except Exception as error:
            raise failed(error) from error
        self.check_channels(images.shape[1], out.shape[1])
        if alpha is not None:
            out = torch.cat([out, alpha], dim=1)
        if not (boxes or points):
            return Many(out, moved)
        if warp is None:
            if not (any(map(len, boxes)) or any(map(len, points))):
                return Many(out, moved, boxes, points)
            raise Unfit("takes no boxes and no keypoints: it has no matrix")
        return Many(
            out,
            moved,
            [move_outlines(warp, row, each) for row, each in enumerate(boxes)],
            [move_points(warp, row, each) for row, each in enumerate(points)],
        )

    def _rows(
        self, images: Tensor, masks: dict[str, Tensor], seeds: Words, wants_matrix: bool
    ) -> tuple[Tensor, dict[str, Tensor], Floats | None]:
        """Returns images, masks and, where it is wanted, the (k, 3, 3) matrices."""
        shape = torch.Size((1, *images.shape[1:]))
        drawn = []
        for seed in seeds:
            with Seeded(int(seed)):
                drawn.append(self._draw(shape))
        whole = None if self.limited("row by row") else collate(drawn)
        if whole is not None:
            return self._do(images, masks, whole, int(seeds[0]), wants_matrix)
        parts = [
            self._do(
                images[k : k + 1],
                {name: each[k : k + 1] for name, each in masks.items()},
                drawn[k],
                int(seed),
                wants_matrix,
            )
            for k, seed in enumerate(seeds)
        ]
        if len({part[0].shape for part in parts}) > 1:
            raise ValueError("the images of a batch would leave with different sizes")
        matrices = [part[2] for part in parts if part[2] is not None]
        return (
            torch.cat([part[0] for part in parts]),
            {name: torch.cat([part[1][name] for part in parts]) for name in masks},
            np.concatenate(matrices) if matrices else None,
        )

    def _draw(self, shape: torch.Size) -> Params:
        return dict(self.instance().forward_parameters(shape))

    def _do(
        self, images: Tensor, masks: dict[str, Tensor], params: Params, seed: int, matrix: bool
    ) -> tuple[Tensor, dict[str, Tensor], Floats | None]:
        transform = self.instance()
        with Seeded(seed):  # some draw while they apply
            out = transform(images.float() / 255.0, params=params)
            own = _matrix(transform) if masks or matrix else None
            fills = {k: transform.flags[k] for k in _FILLS if k in transform.flags}
            none = {k: 0.0 * v if isinstance(v, Tensor) else 0.0 for k, v in fills.items()}
            flags = {**transform.flags, **none}
            moved = {
                name: transform.transform_masks(each.float(), params, flags, own).to(each.dtype)
                for name, each in masks.items()
            }
        levels = out.clamp(0.0, 1.0) * 255.0
        levels = levels if images.is_floating_point() else levels.round()
        at = own.cpu().numpy().astype(np.float64) if matrix and own is not None else None
        return levels.to(images.dtype), moved, at


def _matrix(transform: Any) -> Tensor | None:
    """Returns the matrices of the last call; None where the augmentation has none."""
    try:
        found: Tensor | None = getattr(transform, "transform_matrix", None)
    except RuntimeError:  # how what counts as a mix says so
        return None
    return found


def collate(rows: Sequence[Params]) -> Params | None:
    """Returns parameters drawn for batches of one as those of one batch; None if they differ.

    What has no row (a shared order, a kernel size) must be alike in all of them.
    """
    out: Params = {}
    for name, first in rows[0].items():
        each: list[Any] = [row.get(name) for row in rows]
        if name == "forward_input_shape":
            out[name] = torch.tensor([len(rows), *first.tolist()[1:]], dtype=first.dtype)
        elif isinstance(first, Tensor) and first.ndim and first.shape[0] == 1:
            if any(part is None or part.shape != first.shape for part in each):
                return None
            out[name] = torch.cat(each)
        elif all(_alike(first, part) for part in each):
            out[name] = first
        else:
            return None
    return out


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    return bool(a == b)


def _warp(matrix: Floats, before: torch.Size, after: torch.Size) -> Warp:
    """Returns what Kornia's matrices, input to output at pixel centres, do to coordinates."""
    count = len(matrix)
    forward = _HALF @ matrix @ np.linalg.inv(_HALF)
    frame = Frame(np.tile(np.array(before[2:], np.int64), (count, 1)))
    size = np.tile(np.array(after[2:], np.int64), (count, 1))
    return Warp.of(np.linalg.inv(forward), frame, size, Sampling())
