"""Tensors in safetensors files: nothing that a file says is ever run.

A checkpoint is a tree of plain values with tensors in it. The tensors become the file's tensors,
the tree its metadata in JSON, where {"tensor": k} stands for the k-th of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from augpipe.errors import DataError, first_sentence, reason

_TREE = "tree"
_FORMAT = "augpipe checkpoint 1"


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file; the file is whole or not there.

    Raises:
        DataError: It cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.touch()
        mode = part.stat().st_mode
        # Convolutions' weights may lie in channels last, which the format does not know.
        save_file({name: each.contiguous() for name, each in tensors.items()}, part, metadata)
        part.chmod(mode)  # safetensors makes a file that only its owner may read
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise DataError(path, f"cannot be written: {first_sentence(error)}") from None
    finally:
        part.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a safetensors file: its tensors and its metadata.

    Raises:
        DataError: It cannot be read, or is not in this format: pickles are refused.
    """
    head = b""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe might never end
            raise DataError(path, "is not a regular file")
        with path.open("rb") as file:
            head = file.read(16)
        with safe_open(path, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, dict(opened.metadata() or {})
    except OSError as error:
        raise DataError(path, reason(error)) from None
    except (SafetensorError, ValueError) as error:
        if head[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            why = "is a pickle, as torch.save writes them: only safetensors files are read"
            raise DataError(path, why) from None
        raise DataError(path, f"is not a whole safetensors file: {error}") from None


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
