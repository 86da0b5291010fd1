"""The weights of learned augmenters: safetensors with what they are written beside them.

format     augpipe KIND 1
settings   JSON: what the network is built with
about      JSON: what it was trained on, by which version, and what was measured
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import augpipe
from augpipe.errors import DataError, first_sentence
from augpipe.learned.files import path_of, stamp
from augpipe.tensors import read_tensors, write_tensors

_MOST = 4096  # of channels or layers: more are no network's

Net = TypeVar("Net", bound=nn.Module)
Held = TypeVar("Held")


def save_net(path: Path, kind: str, net: nn.Module, about: Mapping[str, Any]) -> None:
    """Writes a network whose `settings` build it again; the file is whole or not there.

    Args:
        path: The file.
        kind: Such as "autoencoder".
        net: The network.
        about: What is to be known of it, as JSON holds it.

    Raises:
        DataError: It cannot be written.
    """
    header = {
        "format": f"augpipe {kind} 1",
        "settings": json.dumps(net.settings),
        "about": json.dumps({"augpipe": augpipe.__version__, **about}, allow_nan=False),
    }
    tensors = {name: each.detach().cpu().contiguous() for name, each in net.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, tensors, header)


def load_net(
    source: str | Path, kind: str, build: Callable[..., Net]
) -> tuple[Net, dict[str, Any]]:
    """Reads a network in `eval()`, and what is known of it.

    Args:
        source: A file; or "bundled".
        kind: What it has to be.
        build: Makes it of its settings.

    Raises:
        DataError: The file cannot be read, is no safetensors file, or holds something else.
    """
    path = path_of(source, kind)
    tensors, header = read_tensors(path)
    said = header.get("format", "")
    if said != f"augpipe {kind} 1":
        what = f"says it is '{said[:60]}'" if said else "does not say what it is"
        raise DataError(path, f"{what}: these are not the weights of an augpipe {kind}")
    try:
        settings = _settings(json.loads(header["settings"]))
        about = json.loads(header.get("about", "{}"))
        with torch.device("meta"):  # what settings ask for takes no memory until it is seen to fit
            net = build(**settings)
        net.load_state_dict(tensors, assign=True)
    except (KeyError, ValueError, TypeError, RuntimeError, RecursionError) as error:
        raise DataError(path, f"does not hold a whole {kind}: {first_sentence(error)}") from None
    check_numbers(path, tensors)
    return net.eval().requires_grad_(False), about if isinstance(about, dict) else {}


def check_numbers(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuses weights that no network of ours has.

    Raises:
        DataError: Some are NaN or infinite, or of several kinds of floats.
    """
    if not all(bool(each.isfinite().all()) for each in tensors.values()):
        raise DataError(path, "holds weights that are NaN or infinite")
    kinds = {each.dtype for each in tensors.values() if each.is_floating_point()}
    if kinds - {torch.float32}:
        raise DataError(path, f"holds weights in {', '.join(sorted(map(str, kinds)))}, not float32")


def held(read: Callable[[str, str], Held], source: str, device: str) -> Held:
    """Returns what a function reads of a file for a device; read anew if the file is written anew.

    Args:
        read: Takes the file and the device.
        source: The file, or "bundled".
        device: Where what is read goes.
    """
    out: Held = _held(read, source, stamp(source), device)
    return out


@lru_cache(8)
def _held(
    read: Callable[[str, str], Any], source: str, written: tuple[int, int], device: str
) -> Any:
    return read(source, device)


def _settings(given: Any) -> dict[str, int]:
    """Refuses settings that no network has, before one is built."""
    if not isinstance(given, dict):
        raise ValueError("its settings are no mapping")
    for name, value in given.items():
        if not isinstance(value, int) or not 0 <= value <= _MOST:
            raise ValueError(f"{name}: {str(value)[:20]} is not from 0 to {_MOST}")
    return dict(given)
