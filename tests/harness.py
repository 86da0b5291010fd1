"""What the tests share: pictures, and a recipe item run on one backend."""

from __future__ import annotations

import contextlib
import functools
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from augpipe.backends import opencv, reference
from augpipe.ir import Meaning
from augpipe.ops.base import Op
from augpipe.plan.nodes import realise
from augpipe.plan.rules import plan
from augpipe.recipe import load
from augpipe.rng import Draws, Trace
from augpipe.types import Array, Frame

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "samples"
BACKENDS = {"opencv": opencv, "reference": reference}


def build(*items: Any, section: str = "sample") -> tuple[Op, ...]:
    """Builds ops from recipe items, as they stand in a section."""
    built: tuple[Op, ...] = getattr(load({"version": 1, section: list(items)}), section)
    return built


@functools.cache
def photo(name: str = "astronaut.jpg", height: int = 96, width: int = 128) -> Array:
    """A read-only part of a sample photo, (height, width, 3) uint8, with detail in it."""
    image = Image.open(SAMPLES / "photos" / name).convert("RGB")
    scale = max(width / image.width, height / image.height) * 1.5
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    left, top = (image.width - width) // 2, (image.height - height) // 3
    out = np.array(image)[top : top + height, left : left + width]
    out.flags.writeable = False
    return out


def grey(name: str = "astronaut.jpg", height: int = 96, width: int = 128) -> Array:
    """The same, grey: (height, width, 1) uint8."""
    out = np.rint(photo(name, height, width) @ [0.299, 0.587, 0.114]).astype(np.uint8)[:, :, None]
    out.flags.writeable = False
    return out


def ramp(height: int = 64, width: int = 80) -> Array:
    """Coordinates as levels: red rises with x, green with y, blue with both; float32."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x * 3, y * 3, (x + y) * 1.5], axis=2)


def meanings(
    ops: tuple[Op, ...],
    shape: tuple[int, ...],
    indices: Any = (0,),
    *,
    seed: int = 7,
    epoch: int = 0,
    fused: bool = True,
    trace: Trace | None = None,
) -> list[Meaning]:
    """What ops mean for images of one shape."""
    nodes = plan(ops, Counter(), fused)
    draws = Draws(seed, np.asarray(indices, np.int64), epoch, trace=trace)
    frame = Frame(np.array([shape[:2]] * len(indices), np.int64))
    return realise(nodes, draws, frame)


def run(
    item: Any,
    image: Array,
    backend: str = "opencv",
    index: int = 0,
    *,
    trace: Trace | None = None,
    fused: bool = True,
    seed: int = 7,
) -> Array:
    """Runs recipe items (one, or a list) on one image, on one backend."""
    ops = build(*(item if isinstance(item, list) else [item]))
    out = image
    for meaning in meanings(ops, image.shape, (index,), seed=seed, fused=fused, trace=trace):
        out = BACKENDS[backend].render(meaning, 0, out)
    return out


def drawn(item: Any, image: Array, index: int = 0, *, seed: int = 7) -> dict[str, Any]:
    """What an op drew: names and values of its one sample."""
    trace: Trace = {}
    meanings(build(item), image.shape, (index,), seed=seed, trace=trace)
    return {name: values[0] for own in trace.values() for name, values in own.items()}


def interrupt(process: subprocess.Popen[str]) -> str:
    """Presses Ctrl-C until the process ends, at most twelve times; returns its stderr.

    Once is nearly always enough: Python drops the KeyboardInterrupt of a signal that comes while
    it runs a finalizer.
    """
    for _ in range(12):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=10)[1]
    raise AssertionError("a process that does not end at Ctrl-C")
