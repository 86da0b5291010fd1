"""Batches made in worker processes, those of torch's DataLoader."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Sampler

from augpipe.data.parts import Made, Maker, Part


class Processes:
    """Worker processes that live as long as this does.

    Args:
        maker: What they do.
        workers: How many.
    """

    def __init__(self, maker: Maker, workers: int) -> None:
        self._parts = _Parts()
        self._loader: DataLoader[Any] | None = None
        if workers:
            self._loader = DataLoader(
                maker,  # type: ignore[arg-type]
                batch_size=None,
                sampler=self._parts,
                num_workers=workers,
                collate_fn=_same,
                persistent_workers=True,
            )

    def made(self, parts: Sequence[Part]) -> Generator[Made]:
        """Yields what becomes of the parts, in order."""
        assert self._loader is not None
        self._parts.now = parts
        yield from self._loader


class _Parts(Sampler[Part]):
    """Gives the parts that are to be made now, in place of indices."""

    def __init__(self) -> None:
        self.now: Sequence[Part] = ()

    def __iter__(self) -> Iterator[Part]:
        return iter(self.now)

    def __len__(self) -> int:
        return len(self.now)


def _same(made: Any) -> Any:
    return made
