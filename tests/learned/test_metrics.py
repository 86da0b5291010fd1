"""What generated images are judged by, against scikit-learn and closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.neighbors import NearestNeighbors

from augpipe.fitting.metrics import frechet, memorisation, nearest, precision_recall


def rows(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d))
    return torch.from_numpy(rng.normal(size=(n, d)) @ mixing + shift)


def test_frechet_is_the_matrix_root_written_out() -> None:
    a, b = rows(60, 7, 0), rows(80, 7, 1, 0.5)
    first, second = (np.cov(each.numpy().T) for each in (a, b))
    mean = ((a.mean(0) - b.mean(0)) ** 2).sum().item()
    want = mean + np.trace(first + second - 2 * np.real(sqrtm(first @ second)))
    assert frechet(a, b) == pytest.approx(want, rel=1e-6)  # sqrtm is good to about that
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    moved = a + 3.0
    assert frechet(a, moved) == pytest.approx(7 * 9.0, rel=1e-9)


def test_fewer_rows_than_features() -> None:
    assert np.isfinite(frechet(rows(4, 30, 0), rows(5, 30, 1)))


@pytest.mark.parametrize("k", [1, 3])
def test_neighbours_are_scikit_learns(k: int) -> None:
    a, b = rows(1100, 6, 2), rows(300, 6, 3)
    model = NearestNeighbors(n_neighbors=k).fit(b.numpy())
    want = model.kneighbors(a.numpy())[0][:, -1]
    np.testing.assert_allclose(nearest(a, b, k).numpy(), want, rtol=1e-4, atol=1e-3)  # float32


def test_precision_and_recall_are_their_definition() -> None:
    real, made = rows(150, 3, 4), rows(120, 3, 4, 1.5)

    def share(points: Any, manifold: Any) -> float:
        model = NearestNeighbors(n_neighbors=6).fit(manifold)  # the point itself and five others
        radii = model.kneighbors(manifold)[0][:, -1]
        apart = np.linalg.norm(points[:, None] - manifold[None], axis=2)
        return float((apart <= radii).any(axis=1).mean())

    want = share(made.numpy(), real.numpy()), share(real.numpy(), made.numpy())
    assert 0 < min(want) < max(want) < 1
    assert precision_recall(real, made) == pytest.approx(want, abs=0.5 / 120)  # a tie in float32


def test_copies_are_seen() -> None:
    train, unseen = rows(400, 8, 5)[:200], rows(400, 8, 5)[200:]
    assert memorisation(train[:50], unseen, train) == pytest.approx(0, abs=0.02)
    assert memorisation(unseen, unseen, train) == 1.0
    near = train[:50] + 0.1 * rows(50, 8, 6)
    assert 0 < memorisation(near, unseen, train) < 0.8
    assert memorisation(-train[:50], unseen, train, -train) == pytest.approx(0, abs=0.02)
