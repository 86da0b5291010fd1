"""Tensors in safetensors files: nothing that a file says is ever run."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from augpipe.errors import DataError, first_sentence, reason


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file; the file is whole or not there.

    Raises:
        DataError: It cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.touch()
        mode = part.stat().st_mode
        save_file(tensors, part, metadata)
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
    try:
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
