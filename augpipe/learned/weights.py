"""The weights of learned augmenters: safetensors with what they are written beside them.

format     augpipe KIND 1
settings   JSON: what the network is built with
about      JSON: what it was trained on, by which version, and what was measured
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

import augpipe
from augpipe.errors import DataError, first_sentence
from augpipe.tensors import read_tensors, write_tensors

BUNDLED = "bundled"
"""The name of the weights that come with the package."""
_FOLDER = Path(__file__).parent / "weights"
_MOST = 4096  # of channels or layers: more are no network's

Net = TypeVar("Net", bound=nn.Module)


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
    if not all(bool(each.isfinite().all()) for each in tensors.values()):
        raise DataError(path, "holds weights that are NaN or infinite")
    return net.eval().requires_grad_(False), about if isinstance(about, dict) else {}


def path_of(source: str | Path, kind: str) -> Path:
    """Returns the file of weights: a path, or that of the bundled ones of a kind."""
    return _FOLDER / f"{kind}.safetensors" if source == BUNDLED else Path(source)


def stamp(source: str) -> tuple[int, int]:
    """Returns what changes with a file, so that one that was written anew is read anew."""
    try:
        found = Path(source).stat()
    except OSError:
        return 0, 0  # the bundled one; or reading it says what is wrong
    return found.st_mtime_ns, found.st_size


def _settings(given: Any) -> dict[str, int]:
    """Refuses settings that no network has, before one is built."""
    if not isinstance(given, dict):
        raise ValueError("its settings are no mapping")
    for name, value in given.items():
        if not isinstance(value, int) or not 0 <= value <= _MOST:
            raise ValueError(f"{name}: {str(value)[:20]} is not from 0 to {_MOST}")
    return dict(given)
