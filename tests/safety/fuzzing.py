"""What is fuzzed: for each kind of input a strategy of mutants, and what has to hold of each.

A check returns in a word what came of its mutant ("fine", "refused"); whatever else is raised, or
warned of, is a failure.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st
from PIL import Image

import augpipe
from augpipe.cli.main import main
from augpipe.data.decode import decode
from augpipe.data.formats import FORMATS, open_dataset
from augpipe.data.jpeg import open_jpeg
from augpipe.data.masks import open_mask
from augpipe.data.places import size_of
from augpipe.data.shapes import area_of, hull
from augpipe.errors import AugpipeError, DataError, RecipeError, UsageError
from augpipe.expansion import convert, expand
from augpipe.recipe import load
from tests.cases import CASES
from tests.formats.conftest import write
from tests.formats.scenes import scene
from tests.harness import ROOT
from tests.regularizers.cases import ROWS
from tests.safety.mutants import mutated, regrown, reworded

Check = Callable[[Path, Any], str]


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Args:
        name: What it is called.
        mutants: Hypothesis's strategy.
        check: Takes a folder of its own, and a mutant.
        share: How many mutants there are to one recipe.
    """

    name: str
    mutants: st.SearchStrategy[Any]
    check: Check
    share: float


def in_a_line(error: Exception) -> None:
    assert str(error)
    assert "\n" not in str(error)


def in_lines(error: RecipeError) -> None:
    assert error.problems
    for each in error.problems:
        assert each.message


# --- recipes --------------------------------------------------------------------------------


@cache
def _recipes() -> list[bytes]:
    """Returns recipes that hold: the repository's, and all ops and techniques with parameters."""
    out = [path.read_bytes() for path in sorted((ROOT / "configs").rglob("*.yaml"))]
    items = [("sample", case.item) for case in CASES if case.section == "sample"]
    items += [("batch", case.item) for case in CASES]
    items += [("regularize", row.item) for row in ROWS]
    for section, item in items:
        recipe = load(json.loads(json.dumps({"version": 1, section: [item]})))
        out.append(recipe.dump(defaults=True).encode())
    return list(dict.fromkeys(out))


def check_recipe(folder: Path, data: bytes) -> str:
    path = folder / "recipe.yaml"
    path.write_bytes(data)
    return _explained(path)


def check_tree(folder: Path, tree: Any) -> str:
    if isinstance(tree, dict):
        return _explained(tree)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(tree))
    return _explained(path)


def _explained(source: Any) -> str:
    try:
        pipe = augpipe.load(source)
    except RecipeError as error:
        in_lines(error)
        return "refused"
    try:
        assert str(pipe.explain(size=(60, 80)))
        assert load(yaml.safe_load(pipe.recipe.dump())) == pipe.recipe
    except (UsageError, DataError) as error:  # a crop of more than there is
        in_a_line(error)
        return "refused"
    return "fine"


# --- annotations ----------------------------------------------------------------------------


@cache
def _texts(format: str) -> dict[str, bytes]:
    """Returns what a small dataset of a format says: text by the name of its file or member."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        made = scene(Path(folder))
        home = Path(folder) / "out"
        write(format, home, made.meta, made)
        files = {
            p.relative_to(home).as_posix(): p.read_bytes() for p in home.rglob("*") if p.is_file()
        }
    return {k: v for k, v in sorted(files.items()) if not k.endswith((".png", ".jpg"))}


@st.composite
def _annotations(draw: st.DrawFn, format: str) -> tuple[str, bytes, str]:
    texts = _texts(format)
    name = draw(st.sampled_from(sorted(texts)))
    data = texts[name]
    to = draw(st.sampled_from(FORMATS))
    if name.endswith(".tar") and draw(st.booleans()):
        return name, draw(_shard(data)), to
    if name.endswith(".parquet") and draw(st.booleans()):
        return name, draw(_table(data)), to
    if name.endswith((".tar", ".parquet")):
        return name, draw(mutated(data)), to
    kind = draw(st.sampled_from(("bytes", "words", "words", "tree")))
    if kind == "tree" and name.endswith((".json", ".jsonl")):
        lines = data.splitlines() if name.endswith(".jsonl") else [data]
        at = draw(st.integers(0, len(lines) - 1))
        lines[at] = _dumped(draw(regrown(json.loads(lines[at]))))
        return name, b"\n".join(lines) + b"\n", to
    return name, draw(mutated(data) if kind == "bytes" else reworded(data)), to


def _dumped(tree: Any) -> bytes:
    return json.dumps(tree).encode()


@st.composite
def _shard(draw: st.DrawFn, data: bytes) -> bytes:
    """A shard of which one member says another thing, or is called otherwise."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(each, tar.extractfile(each).read()) for each in tar.getmembers()]  # type: ignore[union-attr]
    at = draw(st.integers(0, len(members) - 1))
    info, content = members[at]
    if info.name.endswith(".json") and draw(st.booleans()):
        content = _dumped(draw(regrown(json.loads(content))))
    elif draw(st.booleans()):
        content = draw(reworded(content))
    else:
        info.name = draw(st.text(max_size=12)) + draw(st.sampled_from(("", ".json", ".png", "/x")))
    members[at] = (info, content)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", errors="surrogatepass") as tar:
        for each, held in members:
            each.size = len(held)
            tar.addfile(each, io.BytesIO(held))
    return out.getvalue()


@st.composite
def _table(draw: st.DrawFn, data: bytes) -> bytes:
    """A Parquet file of which one row's record, or the metadata, says another thing."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(data))
    if draw(st.booleans()):
        metadata = dict(table.schema.metadata)
        key = draw(st.sampled_from(sorted(k for k in metadata if k != b"ARROW:schema")))
        metadata[key] = _dumped(draw(regrown(json.loads(metadata[key]))))
        table = table.replace_schema_metadata(metadata)
    else:
        rows = table.column("augpipe").to_pylist()
        at = draw(st.integers(0, len(rows) - 1))
        rows[at] = draw(st.sampled_from((None, json.dumps(draw(regrown(json.loads(rows[at])))))))
        place = table.schema.get_field_index("augpipe")
        table = table.set_column(place, "augpipe", pyarrow.array(rows, pyarrow.string()))
    if draw(st.integers(0, 3)) == 0:  # a stranger's: no record
        table = table.drop_columns(["augpipe"])
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out)
    return out.getvalue()


def check_annotations(folder: Path, format: str, mutant: tuple[str, bytes, str]) -> str:
    """Opens the dataset with one file in a mutant's place, looks at all of it, and converts it."""
    home, out = folder / "home" / format, folder / "out"
    if not home.exists():
        made = scene(folder / "scene" / format)
        write(format, home, made.meta, made)
    name, data, to = mutant
    shutil.rmtree(out, ignore_errors=True)
    (home / name).write_bytes(data)
    try:
        said = "fine"
        for asked in (format, None):
            try:
                dataset = open_dataset(home, asked)
            except (DataError, UsageError) as error:
                in_a_line(error)
                said = "refused"
                continue
            for k in range(len(dataset)):
                try:
                    image = dataset[k]
                    for each in image.annotations:
                        hull(each, "x")
                        area_of(each, "x")
                except DataError as error:
                    in_a_line(error)
                    said = "findings"
        if said == "refused":
            return said
        try:
            if len(data) % 4:
                str(convert(home, out, to, source_format=format))
            else:
                expand(_plain(), home, out, to=to, source_format=format, split="none")
        except AugpipeError as error:
            in_a_line(error)
            return "refused"
        return said
    finally:
        (home / name).write_bytes(_texts(format)[name])
        assert sorted(each.name for each in folder.iterdir()) == sorted(
            {"home", "scene", *(["out"] * out.exists())}
        )


@cache
def _plain() -> Any:
    return load({"version": 1, "sample": ["rotate"]})


# --- images ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """A file's content."""

    data: bytes

    def read(self) -> bytes:
        return self.data


@cache
def _images() -> list[bytes]:
    rng = np.random.default_rng(3)
    rgb = Image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8))
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("PNG", "I;16", {}),
        ("PNG", "1", {}),
        (
            "PNG",
            "RGBA",
            {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
        ),
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True, "subsampling": "4:2:0"}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}),
        (
            "WEBP",
            "RGB",
            {"save_all": True, "append_images": [rgb.transpose(Image.Transpose.ROTATE_180)]},
        ),
        ("GIF", "P", {}),
        ("GIF", "P", {"transparency": 3}),
        ("BMP", "RGB", {}),
        ("BMP", "P", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "L", {"compression": "tiff_lzw"}),
        ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "I;16", {}),
        ("TIFF", "1", {"compression": "group4"}),
        ("PPM", "RGB", {}),
        ("PPM", "L", {}),
    ]
    out = []
    for kind, mode, options in kinds:
        buffer = io.BytesIO()
        picture = rgb.convert("L").convert("I;16") if mode == "I;16" else rgb.convert(mode)
        picture.save(buffer, kind, **options)
        out.append(buffer.getvalue())
    return [*out, b"P3\n# c\n2 1 255\n1 2 3 4 5 6\n", b"P1 2 2 0 1 1 0\n"]


def check_image(folder: Path, data: bytes) -> str:
    said = "fine"
    try:
        made = decode(data, name="x")
        assert made.dtype == np.uint8 and made.ndim == 3 and made.shape[2] in (1, 3, 4)
    except DataError as error:
        in_a_line(error)
        said = "refused"
    with contextlib.suppress(DataError):
        size_of(Held(data), "x")
    with contextlib.suppress(DataError):
        open_mask(Held(data), "x")
    picture = open_jpeg(data, "x", scaled=True)
    if picture is not None:
        height, width, _ = picture.shape
        with contextlib.suppress(DataError):
            picture.part(0, min(height, 8), 0, min(width, 8))
            picture.reduced(1, (0.0, 0.0, min(width, 8.0), min(height, 8.0)))
    return said


# --- the command line -----------------------------------------------------------------------

_COMMANDS = ["check", "explain", "preview", "expand", "convert", "verify", "ops", "regularizers"]
_COMMANDS += ["import", "schema", "bench", "train", "compare", "fit", "fit gan", "", "ex", "--help"]
_ARGUMENTS = [
    "good.yaml",
    "bad.yaml",
    "none.yaml",
    "in",
    "empty",
    "one.png",
    "",
    ".",
    "-",
    "--",
    "-o",
]
_ARGUMENTS += [
    "made",
    "--to",
    "coco",
    "yolo",
    "--from",
    "--copies",
    "0",
    "-1",
    "2",
    "99999999999",
    "nan",
]
_ARGUMENTS += [
    "--size",
    "28",
    "1e9",
    "--set",
    "seed=1",
    "sample.0=rotate",
    "sample.9.p=1",
    "=",
    "a=b=c",
]
_ARGUMENTS += [
    "--split",
    "train",
    "--format",
    "gif",
    "jpeg",
    "--quality",
    "--strict",
    "--debug",
    "-h",
]
_ARGUMENTS += [
    "--workers",
    "--batch-size",
    "--images",
    "--source",
    "rand-m9-mstd0.5",
    "Compose([])",
    "x" * 300,
]


def check_command(folder: Path, words: list[str]) -> str:
    """Runs a command in a folder of its own; the words are such that none is long at work."""
    home = folder / "cli"
    if not home.exists():
        (home / "empty").mkdir(parents=True)
        (home / "in" / "a").mkdir(parents=True)
        Image.new("RGB", (8, 9)).save(home / "in" / "a" / "x.png")
        Image.new("RGB", (8, 9)).save(home / "one.png")
        (home / "good.yaml").write_text("version: 1\nsample: [rotate]\n")
        (home / "bad.yaml").write_text("version: 1\nsample: [rotat]\n")
    out, err = io.StringIO(), io.StringIO()
    kept = Path.cwd()
    os.chdir(home)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
    finally:
        os.chdir(kept)
        shutil.rmtree(home / "made", ignore_errors=True)
    assert code in (0, 1, 2), code
    assert "internal error" not in err.getvalue(), err.getvalue()
    assert "--debug" in words or "Traceback" not in err.getvalue(), err.getvalue()
    assert code == 0 or out.getvalue() or err.getvalue()
    return ("fine", "failed", "refused")[code]


def _command() -> st.SearchStrategy[list[str]]:
    letters = st.characters(codec="utf-8", exclude_characters="/~")
    argument = st.one_of(st.sampled_from(_ARGUMENTS), st.text(letters, max_size=8))
    words = st.tuples(st.sampled_from(_COMMANDS), st.lists(argument, max_size=7))
    return words.map(_brief)


def _brief(words: tuple[str, list[str]]) -> list[str]:
    """Returns a command's words; what would be long at work is given nothing to work on."""
    command, arguments = words[0].split(), words[1]
    if command and command[0] in ("bench", "train", "compare", "fit"):
        arguments = [word for word in arguments if word not in ("in", "one.png", ".")]
    return [*command, *arguments]


# --------------------------------------------------------------------------------------------


NAMES = ("recipe bytes", "recipe words", "recipe trees", "image headers", "images")
NAMES += (*(f"annotations of {name}" for name in FORMATS), "command lines")
"""The targets."""


def target(name: str) -> Target:
    """Returns one of them."""
    if name.startswith("recipe"):
        recipes = st.sampled_from(_recipes())
        trees = recipes.map(lambda data: yaml.safe_load(data))
        return {
            "recipe bytes": Target(name, recipes.flatmap(mutated), check_recipe, 0.3),
            "recipe words": Target(name, recipes.flatmap(reworded), check_recipe, 0.3),
            "recipe trees": Target(name, trees.flatmap(regrown), check_tree, 0.4),
        }[name]
    if name.startswith("annotations of "):
        form = name.removeprefix("annotations of ")
        return Target(
            name,
            _annotations(form),
            lambda folder, mutant: check_annotations(folder, form, mutant),
            0.05,
        )
    if name == "command lines":
        return Target(name, _command(), check_command, 0.05)
    images = st.sampled_from(_images())
    head = 64 if name == "image headers" else None
    share = 0.5 if head else 0.3
    return Target(name, images.flatmap(lambda data: mutated(data, head)), check_image, share)
