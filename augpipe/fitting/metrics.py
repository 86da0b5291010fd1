"""How near generated images come to real ones, in features of a classifier of our own.

All take rows of numbers: (n, d) features, or flattened pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 2048  # of a table of distances at a time, and as many columns


def frechet(a: Tensor, b: Tensor) -> float:
    """Returns the Fréchet distance of the Gaussians that have the moments of two sets.

    |m_a - m_b|² + tr(S_a + S_b - 2 (S_a S_b)^½), with unbiased covariances (Heusel et al.,
    arXiv 1706.08500, there in features of Inception; distances in other features do not compare).

    Args:
        a: (n, d), n two at least.
        b: (m, d).
    """
    a, b = a.double(), b.double()
    first, second = torch.cov(a.T), torch.cov(b.T)
    root = _root(first)
    # tr (AB)^½ = tr (A^½ B A^½)^½, which is symmetric
    cross = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    apart = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    return float((apart + first.trace() + second.trace() - 2 * cross).clamp_min(0))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T


def nearest(rows: Tensor, others: Tensor, k: int = 1) -> Tensor:
    """Returns (n,): the Euclidean distance of each row to its k-th nearest of the others.

    Args:
        rows: (n, d), of any dtype.
        others: (m, d), m k at least.
        k: Which neighbour.
    """
    found = []
    for part in torch.split(rows, _ROWS):
        best = part.new_empty((len(part), 0), dtype=torch.float32)
        for some in torch.split(others, _ROWS):
            apart = torch.cdist(part.float(), some.float())
            both = torch.cat([best, apart], dim=1)
            best = both.topk(min(k, both.shape[1]), largest=False).values
        found.append(best[:, -1])
    return torch.cat(found)


def precision_recall(real: Tensor, made: Tensor, k: int = 5) -> tuple[float, float]:
    """Returns which share of each set lies in the other's manifold.

    The manifold of a set is the union of balls around its points, each as wide as the distance
    to its k-th nearest other point. Precision: made points among the real ones; recall: real
    points among the made ones (Kynkäänniemi et al., arXiv 1904.06991, whose k is 3).

    Args:
        real: (n, d), n two at least.
        made: (m, d), m two at least.
        k: Which neighbour; the last there is, where there are fewer.
    """
    k = min(k, len(real) - 1, len(made) - 1)
    return _within(made, real, k), _within(real, made, k)


def _within(rows: Tensor, others: Tensor, k: int) -> float:
    radii = nearest(others, others, k + 1)  # the nearest of all is the point itself
    inside = [
        (torch.cdist(part.float(), others.float()) <= radii).any(dim=1)
        for part in torch.split(rows, _ROWS)
    ]
    return float(torch.cat(inside).float().mean())


def memorisation(made: Tensor, unseen: Tensor, *train: Tensor) -> float:
    """Returns how far made images lie from those they were fitted on, against unseen real ones.

    median distance of made rows to the nearest training row / that of unseen real rows: about 1
    where made images are as new as real ones, 0 where they are copies.

    Args:
        made: (n, d).
        unseen: (m, d).
        train: Sets of rows (·, d), which count as one: such as images and their mirror images.
    """
    near, far = (
        torch.stack([nearest(rows, each) for each in train]).amin(dim=0).median()
        for rows in (made, unseen)
    )
    return float(near / far.clamp_min(1e-12))
