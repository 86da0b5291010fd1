"""Lightning's checkpoints as safetensors: nothing that a file says is ever run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import CheckpointIO

from augpipe.tensors import load_tree, save_tree


class SafeCheckpoints(CheckpointIO):
    """Lightning's checkpoints as safetensors: `Trainer(plugins=[SafeCheckpoints()])`.

    Args:
        metadata: What each file says beside.
    """

    def __init__(self, metadata: Mapping[str, str] | None = None) -> None:
        self.metadata = dict(metadata or {})

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Writes a checkpoint."""
        save_tree(Path(path), checkpoint, self.metadata)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint.

        Raises:
            DataError: The file is none.
        """
        tree, _ = load_tree(Path(path))
        return dict(tree)

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a checkpoint."""
        Path(path).unlink(missing_ok=True)
