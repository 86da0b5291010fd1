"""Imports point one way (design: the house), and the light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "augpipe"
ORDER = [
    {"errors", "types"},
    {"polygons", "rng", "spec", "yamltree"},
    {"declared", "ir", "reading", "settings"},
    {"flows"},
    {"targets", "losses", "tensors"},
    {"foreign", "kinds", "backends", "regularizers", "networks"},
    {"constraint", "mixing"},
    {"ops", "data"},
    {"learned"},
    {"plan"},
    {"recipe"},
    {"ahead", "batch", "rendering", "schema"},
    {"pipeline", "wrapping"},
    {"expansion", "training", "importers"},
    {"fitting", "report"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path, at_run_time: bool = False) -> list[str]:
    """Returns the modules a file imports, at its top or in a function; or but for type checks."""
    out = []
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if at_run_time and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            out += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            out += [f"{node.module}.{alias.name}" for alias in node.names]
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = unit(path)
    if own == "__init__":
        return
    assert own in RANK, f"{own} has no place in the order of the house"
    for name in imports(path):
        if not name.startswith("augpipe."):
            continue
        other = name.split(".")[1]
        if other in ("__version__", own):
            continue
        assert RANK[other] < RANK[own], f"{path.name} imports {name}: siblings or upwards"


@pytest.mark.parametrize("folder", ["plan", "ops", "ir", "rng", "spec", "targets", "recipe"])
def test_plan_and_ops_see_no_pixels_library(folder: str) -> None:
    for path in FILES:
        if unit(path) != folder:
            continue
        for name in imports(path, at_run_time=True):
            assert name.split(".")[0] not in ("cv2", "torch", "kornia", "albumentations"), path


def loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(out.stdout.splitlines()[-1].split())


def test_import_augpipe_loads_neither_torch_nor_opencv() -> None:
    loaded = loaded_after("import augpipe; dir(augpipe)")
    assert not {"torch", "cv2", "numpy", "pydantic"} & loaded


def test_a_numpy_user_needs_no_torch() -> None:
    code = (
        "import numpy as np, augpipe\n"
        "p = augpipe.load({'version': 1, 'sample': ['rotate']})\n"
        "p(np.zeros((8, 8, 3), np.uint8), index=0); p(np.zeros((8, 8, 3), np.uint8))"
    )
    assert "torch" not in loaded_after(code)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420
