"""Checkpoints and weights as safetensors: nothing that a file says is ever run.

A checkpoint is a tree of plain values with tensors in it. The tensors become the file's tensors,
the tree its metadata in JSON, where {"tensor": k} stands for the k-th of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor

from augpipe.errors import DataError
from augpipe.tensors import read_tensors, write_tensors

_TREE = "tree"
_FORMAT = "augpipe checkpoint 1"


def save_tree(path: Path, tree: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a tree of dicts, lists, numbers, texts and tensors; the file is whole or not there.

    Raises:
        TypeError: It holds something else.
    """
    tensors: dict[str, Tensor] = {}
    plain = _pack(tree, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, {**(metadata or {}), "format": _FORMAT, _TREE: json.dumps(plain)})


def load_tree(path: Path) -> tuple[Any, dict[str, str]]:
    """Reads what `save_tree` wrote: the tree and the metadata.

    Raises:
        DataError: The file is none of its.
    """
    tensors, header = read_tensors(path)
    if header.get("format") != _FORMAT or _TREE not in header:
        raise DataError(path, "is not a checkpoint of augpipe's")
    try:
        tree = _unpack(json.loads(header.pop(_TREE)), tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(path, f"is not a whole checkpoint: {error}") from None
    return tree, header


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    match value:
        case Tensor():
            key = str(len(tensors))
            # A copy: tensors that share memory are refused by the format.
            tensors[key] = value.detach().cpu().clone().contiguous()
            return {"tensor": key}
        case Mapping():
            return {"dict": [[_pack(k, tensors), _pack(v, tensors)] for k, v in value.items()]}
        case list() | tuple():
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [_pack(each, tensors) for each in value]}
        case set():
            return {"set": [_pack(each, tensors) for each in value]}
        case float() | int() | str() | bool() | None:
            return value
        case Path():
            return str(value)
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        return value.item()
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "tensor":
            return tensors[inner]
        case "dict":
            return {_unpack(k, tensors): _unpack(v, tensors) for k, v in inner}
        case "list":
            return [_unpack(each, tensors) for each in inner]
        case "tuple":
            return tuple(_unpack(each, tensors) for each in inner)
        case "set":
            return {_unpack(each, tensors) for each in inner}
    raise ValueError(f"a checkpoint has no '{kind}'")


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
