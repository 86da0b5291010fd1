"""Files of strangers: nothing in them is run, and none costs more than a line of refusal."""

from __future__ import annotations

import ast
import io
import json
import pickle
import resource
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from augpipe.cli.main import main
from augpipe.data.content import FileContent
from augpipe.data.decode import decode, read
from augpipe.data.formats import open_dataset
from augpipe.data.jpeg import open_jpeg
from augpipe.data.masks import open_mask
from augpipe.data.places import size_of
from augpipe.data.sidecar import SIDECAR
from augpipe.errors import AugpipeError, DataError, RecipeError, UsageError
from augpipe.expansion import convert, expand
from augpipe.learned.weights import check_numbers
from augpipe.recipe import load
from augpipe.tensors import load_tree, read_tensors
from tests.formats.scenes import picture
from tests.harness import ROOT

ROTATE = load({"version": 1, "sample": ["rotate"]})


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Sees to it that no test here takes a lot of memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kB


def refused(call: Callable[[], Any], *words: str) -> str:
    """Returns the line with which something is refused."""
    with pytest.raises(AugpipeError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said, said
    return said


# --- nothing is run -------------------------------------------------------------------------

_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
_MODULES |= {"subprocess", "zipimport", "runpy", "code", "xml.etree.ElementTree", "xml.dom.minidom"}
_MODULES |= {"xml.sax", "multiprocessing.reduction", "ctypes", "zipfile", "imp"}
_CALLS = {"eval", "exec", "compile", "__import__", "execfile", "input"}
_NAMES = {"torch.load", "np.load", "numpy.load", "np.fromregex", "yaml.load", "yaml.unsafe_load"}
_NAMES |= {"yaml.full_load", "yaml.load_all", "yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader"}
_NAMES |= {"os.system", "os.popen", "os.execv", "torch.hub", "ET.parse"}
_NAMES |= {"shutil.unpack_archive", "tarfile.extractall", "tar.extractall", "tar.extract"}
_ALLOWED = {
    ("data/children.py", "pickle"): "between the processes of one program",
    ("data/packed.py", "pickle"): "between the processes of one program",
    ("data/packed.py", "multiprocessing.reduction"): "between the processes of one program",
    ("foreign/arguments.py", "eval"): "type annotations in the source of installed libraries",
}


def _found(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import():
                yield from (each.name for each in node.names if each.name in _MODULES)
            case ast.ImportFrom(module=str(name)) if name in _MODULES:
                yield name
            case ast.Call(func=ast.Name(id=name)) if name in _CALLS:
                yield name
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if f"{name}.{attr}" in _NAMES:
                yield f"{name}.{attr}"
            case ast.keyword(arg="allow_pickle" | "weights_only" | "trust_remote_code"):
                yield str(node.arg)


def test_the_package_runs_nothing_that_a_file_says() -> None:
    package = ROOT / "augpipe"
    found = {
        (path.relative_to(package).as_posix(), name)
        for path in package.rglob("*.py")
        for name in _found(path)
    }
    # Lightning's interface names the argument: what is passed is not used.
    found.discard(("training/checkpoint.py", "weights_only"))
    assert found == set(_ALLOWED)


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from joblib import load", "eval(x)", "np.load(x)", "yaml.load(x)"),
        *("torch.load(x)", "f(allow_pickle=True)", "import xml.etree.ElementTree", "exec(x)"),
        *("os.system(x)", "__import__(x)", "import marshal", "import shelve"),
    ],
)
def test_the_search_finds_what_it_looks_for(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.py").write_text(f"def f():\n    {line}\n")
    assert list(_found(tmp_path / "x.py"))


class Trap:
    """What a pickle of it does when it is opened: makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_are_opened_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sprung = tmp_path / "sprung"
    data = pickle.dumps(Trap(sprung))
    buffer, zipped = io.BytesIO(), io.BytesIO()
    np.save(buffer, np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    torch.save({"a": Trap(sprung)}, zipped)
    home = tmp_path / "home"
    picture(home / "cat" / "a.png", 9, 9, 0)
    for k, each in enumerate((data, buffer.getvalue(), zipped.getvalue())):
        for ending in ("parquet", "tar", "json", "yaml", "png", "pt"):
            (home / "cat" / f"{k}.{ending}").write_bytes(each)
            (home / f"{k}.{ending}").write_bytes(each)
            path = home / f"{k}.{ending}"
            for form in (None, "coco", "yolo", "webdataset", "parquet", "csv"):
                with pytest.raises((DataError, UsageError)):
                    open_dataset(path, form)[0].content.read() and decode(path)
            refused(lambda path=path: read_tensors(path), path.name)
            refused(lambda path=path: load_tree(path), path.name)
            refused(lambda path=path: decode(path))
            with pytest.raises(RecipeError):
                load(path)
            assert main(["import", str(path)]) == 2
        (home / SIDECAR).write_bytes(each)
        refused(lambda: convert(home, tmp_path / "out", "coco", source_format="folder"), SIDECAR)
        (home / SIDECAR).unlink()
        (home / "model.pt").write_bytes(each)
        recipe = {"version": 1, "sample": [{"latent_noise": {"model": str(home / "model.pt")}}]}
        assert expand(load(recipe), home, tmp_path / f"out{k}").written == 0
    assert "Traceback" not in capsys.readouterr().err
    assert not sprung.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "builtins.eval", "albumentations.Lambda", "albumentations.from_dict"),
        *("albumentations.load", "torchvision.Lambda", "torchvision.functional", "kornia.nn"),
        *("kornia.container", "torch.load", "albumentations.core.serialization.load", "__class__"),
    ],
)
def test_no_recipe_names_what_is_no_transform(name: str) -> None:
    with pytest.raises(RecipeError):
        load({"version": 1, "sample": [{name: {}}]})


# --- weights --------------------------------------------------------------------------------


def _safetensors(header: bytes, said: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if said is None else said) + header + b"abcd"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        _safetensors(b"{}", 10**10),
        _safetensors(b"{}", 2**64 - 1),
        _safetensors(b" " * 1000, 99),
        _safetensors(b"{" * 100_000),
        _safetensors(b'{"a":' * 100_000),
        *(
            _safetensors(f'{{"a":{{"dtype":"{kind}","shape":{shape},"data_offsets":{at}}}}}'.encode())
            for kind, shape, at in [
                ("F32", [10**12], [0, 4]),
                ("F32", [2], [0, 4 * 10**12]),
                ("F32", [-1], [4, 0]),
                ("OBJ", [1], [0, 4]),
                ("F32", [2**32, 2**32], [0, 4]),
            ]
        ),
    ],
)  # fmt: skip
def test_weights_that_lie(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    refused(lambda: read_tensors(path), "not a whole safetensors file")
    recipe = {"version": 1, "sample": [{"latent_noise": {"model": str(path)}}]}
    picture(tmp_path / "in" / "a.png", 32, 32, 0)
    summary = expand(load(recipe), tmp_path / "in", tmp_path / "out")
    assert (summary.written, summary.skipped) == (0, 1)
    assert "x.safetensors: is not a whole" in (tmp_path / "out" / "errors.jsonl").read_text()


def test_weights_that_are_no_file(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    picture(tmp_path / "in" / "a.png", 32, 32, 0)
    for name in ("pipe", "zero", "in", "none", "a\0b", "\ud800", "n" * 300):
        path = f"{tmp_path}/{name}"
        refused(lambda path=path: read_tensors(Path(path)))
        recipe = {"version": 1, "sample": [{"latent_noise": {"model": path}}]}
        refused(lambda recipe=recipe: expand(load(recipe), tmp_path / "in", tmp_path / "out"))


def test_weights_that_are_not_finite() -> None:
    for value in (float("nan"), float("inf")):
        refused(lambda value=value: check_numbers(Path("x"), {"a": torch.tensor([value])}), "NaN")


# --- images ---------------------------------------------------------------------------------


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *extra: bytes) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = _chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + rows + _chunk(b"IEND", b"")


def _saved(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, kind, **options)
    return buffer.getvalue()


def _jpeg(width: int, height: int) -> bytes:
    data = _saved("JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _webp(width: int, height: int) -> bytes:
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _bmp(width: int, height: int) -> bytes:
    data = _saved("BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def _tiff(width: int, height: int) -> bytes:
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1)]
    entries += [(278, height), (279, 4)]
    body = struct.pack("<H", len(entries))
    body += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 8) + body + bytes(4)


@pytest.mark.parametrize(
    "data",
    [
        _png(40_000, 25_000),
        _png(2**31 - 1, 2**31 - 1),
        _jpeg(65_000, 65_000),
        _webp(16_000_000, 16_000_000),
        _bmp(40_000, 25_000),
        _tiff(40_000, 25_000),
        b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b";",
        b"GIF89a" + struct.pack("<HHBBBc4H", 9, 9, 0, 0, 0, b",", 0, 0, 65_535, 65_535),
        b"P6 40000 25000 255\n",
        b"P5 99999999999 99999999999 255\n",
    ],
    ids=["png", "png31", "jpeg", "webp", "bmp", "tiff", "gif", "gif frame", "ppm", "pgm"],
)  # fmt: skip
def test_images_that_claim_to_be_huge(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "in" / "huge.png"
    path.parent.mkdir()
    path.write_bytes(data)
    refused(lambda: decode(path))
    refused(lambda: size_of(FileContent(path), "x"))
    refused(lambda: open_mask(FileContent(path), "x"))
    assert open_jpeg(data, "x") is None
    summary = expand(ROTATE, tmp_path / "in", tmp_path / "out")
    assert (summary.written, summary.skipped) == (0, 1)


def test_chunks_that_unpack_to_much(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(80_000_000), 1)
    for kind, start in ((b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")):
        data = _png(4, 4, _chunk(kind, start + bomb))
        try:
            assert decode(data).shape == (4, 4, 3)
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017


# --- archives -------------------------------------------------------------------------------


def _header(name: str, size: int, kind: bytes = b"0", raw: bytes | None = None) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])
    field = (
        b"\x80" + size.to_bytes(11, "big")
        if size >= 0
        else b"\xff" + (2**88 + size).to_bytes(11, "big")
    )
    head[124:136] = field if raw is None else raw
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


@pytest.mark.parametrize(
    "data",
    [
        _header("a.png", 10**13),
        _header("a.png", 2**63 - 1),
        _header("a.png", -512),
        _header("a.png", -10**12),
        _header("x", 8 * 10**9, b"L") + bytes(512) + _header("a.png", 0),
        _header("x", 8 * 10**9, b"x") + b"30 path=../../up\n" + bytes(495) + _header("a.png", 0),
        _header("x", -1024, b"x") + bytes(512) + _header("a.png", 0),
        _header("a.png", 10**12, b"S"),
        _header("a.png", 0, b"2"),
        _header("a.png", 0, b"1"),
        _header("a.png", 0, b"3"),
        _header("../up.png", 0),
        _header("/tmp/up.png", 0),
        _header("a.json", 17 * 2**20) + bytes(17 * 2**20),
    ],
)  # fmt: skip
def test_archives_that_lie(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "000000.tar"
    path.write_bytes(data + bytes(-len(data) % 512) + bytes(10_240))
    refused(lambda: convert(tmp_path / "in", tmp_path / "out", "coco", source_format="webdataset"))


# --- annotations ----------------------------------------------------------------------------


def _coco(home: Path, text: str) -> Path:
    picture(home / "images" / "a.png", 30, 40, 0)
    (home / "a.json").write_text(text)
    return home


def _document(**changes: Any) -> str:
    image = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
    thing = {"id": 1, "image_id": 1, "category_id": 1, **changes}
    kinds = [{"id": 1, "name": "cat"}]
    return json.dumps({"images": [image], "annotations": [thing], "categories": kinds})


@pytest.mark.parametrize(
    "changes",
    [
        {"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}},
        {"segmentation": {"size": [30, 40], "counts": [10**12]}},
        {"segmentation": {"size": [30, 40], "counts": [1200, 10**400]}},
        {"segmentation": {"size": [30, 40], "counts": "o" * 100_000}},
        {"segmentation": {"size": [float("inf"), 40], "counts": [1200]}},
        {"segmentation": {"size": [30, 40], "counts": [float("inf")]}},
        {"segmentation": {"size": [-30, -40], "counts": [1200]}},
        {"segmentation": [[float("nan"), 1, 2, 3, 4, 5]]},
        {"segmentation": [[float("-inf"), 1, 2, 3, 4, 5]]},
        {"segmentation": [[1e308, 1, 2, 3, 4, 5]]},
        {"segmentation": [[10**400, 1, 2, 3, 4, 5]]},
        {"bbox": [0, 0, 1e308, 1e308]},
        {"bbox": [1e308, 0, 1e308, 1]},
        {"bbox": [0, 0, 5, 5], "score": float("nan")},
        {"bbox": [0, 0, 5, 5], "keypoints": [1e308, 0, 2]},
        {"category_id": [1]},
        {"category_id": {"a": 1}},
        {"augpipe": [1]},
        {"augpipe": {"oriented": [1e308] * 8}},
        {"augpipe": {"extra": 3}},
    ],
)
def test_objects_that_cannot_be(tmp_path: Path, changes: dict[str, Any]) -> None:
    home = _coco(tmp_path / "in", _document(**changes))
    for k, to in enumerate(("yolo", "masks", "csv")):
        refused(lambda k=k, to=to: convert(home, tmp_path / str(k), to), "a.png")
    summary = expand(ROTATE, home, tmp_path / "out")
    assert (summary.written, summary.skipped) == (0, 1)


def test_outlines_of_very_many_points(tmp_path: Path) -> None:
    """Two parts of ten thousand points each, and three thousand parts: neither takes for ever."""
    rng = np.random.default_rng(0)
    two = [(rng.random(20_000) * 30).tolist() for _ in range(2)]
    many = [[1, 1, 2, 2, 3, k % 7] for k in range(3000)]
    for k, parts in enumerate((two, many)):
        home = _coco(tmp_path / f"in{k}", _document(segmentation=parts))
        done = convert(home, tmp_path / f"yolo{k}", "yolo")
        assert "1 object that no line can say" in str(done)
        (image,) = open_dataset(tmp_path / f"yolo{k}")
        assert len(image.annotations[0].polygons) == len(parts)


def test_json_that_is_nested_or_has_numbers_without_end(tmp_path: Path) -> None:
    start, end = '{"images": [{"id": 1, "file_name": "a.png"', "]}"
    for k, value in enumerate(
        ("[" * 300 + "]" * 300, "[" * 100_000, "9" * 5000, '{"a":' * 100_000)
    ):
        for text in (
            f'{start}, "x": {value}}}], "annotations": [], "categories": [{end}',
            f'{start}}}], "annotations": [], "x": {value}, "categories": [{end}',
        ):
            home = _coco(tmp_path / f"in{k}", text)
            refused(lambda home=home: convert(home, tmp_path / "out", "yolo", source_format="coco"))
            (home / "images" / "a.png").unlink()


def test_class_ids_that_no_mask_holds(tmp_path: Path) -> None:
    for k, number in enumerate((-5, 70_000, 10**30)):
        text = _document(category_id=number, segmentation=[[1, 1, 9, 1, 9, 9]])
        home = _coco(
            tmp_path / f"in{k}", text.replace('"id": 1, "name"', f'"id": {number}, "name"')
        )
        refused(lambda k=k, home=home: convert(home, tmp_path / str(k), "masks"), "0 to 65535")


def _xml(body: str, head: str = "") -> str:
    return f"{head}<annotation><filename>a.png</filename>{body}</annotation>"


@pytest.mark.parametrize(
    "text",
    [
        _xml(
            "&c;", '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;"><!ENTITY c "&b;&b;&b;">]>'
        ),
        _xml("&a;", '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>'),
        _xml("", '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd">'),
        _xml("<a>" * 200_000),
        _xml("<a/>" * 600_000),
        _xml("<a " + " ".join(f'b{k}=""' for k in range(10)) + "/>" + "x" * 17_000_000),
        _xml("", '<?xml version="1.0" encoding="utf-7"?>'),
        _xml("<size><width>1e308</width><height>nan</height></size>"),
        _xml("<object><name>a</name><bndbox><xmin>inf</xmin></bndbox></object>"),
    ],
    ids=["laughs", "external", "dtd", "deep", "many", "large", "encoding", "size", "box"],
)
def test_xml_of_a_stranger(tmp_path: Path, text: str) -> None:
    picture(tmp_path / "in" / "JPEGImages" / "a.png", 30, 40, 0)
    (tmp_path / "in" / "Annotations").mkdir()
    (tmp_path / "in" / "Annotations" / "a.xml").write_text(text)
    refused(
        lambda: convert(tmp_path / "in", tmp_path / "out", "coco", source_format="voc"), "a.xml"
    )


@pytest.mark.parametrize(
    "text",
    [
        "train: images\nnames: !!python/object/apply:os.system ['touch /tmp/up']\n",
        "train: &a images\nnames: [*a]\n",
        "train: images\nnames: {0: x, <<: {1: y}}\n",
        "train: images\nnames: " + "[" * 5000,
        "train: images\nnames: [.nan]\n",
        'train: images\nnames: ["\\U00110000"]\n',
        'train: "' + "n" * 300 + '"\nnames: [x]\n',
        "train: [[images]]\nnames: [x]\n",
        "train: images\nnames: [x]\nkpt_shape: [2, 3]\nflip_idx: ['0', '1']\n",
        "train: images\nnames: [x]\nnc: 99999999999\n",
    ],
)
def test_yaml_of_a_stranger(tmp_path: Path, text: str) -> None:
    picture(tmp_path / "in" / "images" / "a.png", 30, 40, 0)
    (tmp_path / "in" / "data.yaml").write_text(text)
    refused(
        lambda: convert(tmp_path / "in", tmp_path / "out", "coco", source_format="yolo"),
    )


def test_escapes_that_are_no_letters_in_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for text in (
        'version: 1\nsample: ["\\U00110000"]\n',
        "%YAML " + "9" * 5000 + ".1\n---\na: 1\n",
    ):
        path.write_text(text)
        with pytest.raises(RecipeError, match="not valid YAML"):
            load(path)


# --- Parquet --------------------------------------------------------------------------------


def _table(**columns: Any) -> bytes:
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    made = {k: pyarrow.array(v, kind) if k == "image" else v for k, v in columns.items()}
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(made), out)
    return out.getvalue()


def test_parquet_that_lies(tmp_path: Path) -> None:
    rows = 300_000
    nothing = {"image": [None] * rows}
    image = {"bytes": _saved("PNG"), "path": "a.png"}
    good = _table(image=[image])
    cut = good[: len(good) // 2]
    end = struct.pack("<I", 2**31 - 1)
    for k, (data, words) in enumerate(
        [
            (_table(**nothing), "more rows than bytes"),
            (cut, "truncated"),
            (b"PAR1" + good[4:-8] + end + b"PAR1", "a Parquet file"),
            (b"PAR1" + bytes(100) + b"PAR1", "a Parquet file"),
            (_table(image=[{"bytes": b"x", "path": "../../up.png"}]), "leads out"),
            (_table(image=[{"bytes": b"x", "path": "/tmp/up.png"}]), "absolute"),
            (
                _table(image=[image], objects=[{"bbox": [[0, 0, 1e308, 1]], "category": [1]}]),
                "1e+308",
            ),
        ]
    ):
        (tmp_path / f"{k}.parquet").write_bytes(data)
        path, out = tmp_path / f"{k}.parquet", tmp_path / f"out{k}"
        refused(lambda path=path, out=out: convert(path, out, "coco"), words)


# --- sidecars -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"annotations": [{"category": 3, "box": [1, 2]}]},
        {"annotations": [{"category": 3, "box": [5, 5, 1, 1]}]},
        {"annotations": [{"category": 3, "box": [0, 0, 1e999, 1]}]},
        {"annotations": [{"category": 77, "box": [0, 0, 1, 1]}]},
        {"annotations": [{"category": "3", "box": [0, 0, 1, 1]}]},
        {"annotations": [{"category": 3, "polygons": [[]]}]},
        {"annotations": [{"category": 3, "polygons": [[1, 2, 3]]}]},
        {"annotations": [{"category": 3, "rle": {"size": ["a", 2], "counts": [2]}}]},
        {"annotations": [{"category": 3, "rle": {"size": [1e999, 2], "counts": [2]}}]},
        {"annotations": [{"category": 3, "keypoints": [1]}]},
        {"annotations": [{"category": 3, "extra": 1}]},
        {"annotations": [{"category": 3, "id": [1]}]},
        {"size": [1e999, 1]},
        {"size": [0, 5]},
        {"label": 3},
        {"extra": []},
        {"source": "x"},
        {"id": {}},
    ],
)
def test_a_record_that_cannot_be(tmp_path: Path, change: dict[str, Any]) -> None:
    from augpipe.data.annotated import AnnotatedImage
    from tests.formats.conftest import write
    from tests.formats.scenes import META

    image = AnnotatedImage("a.png", picture(tmp_path / "a.png", 20, 24, 0), "train", (20, 24), id=3)
    write("yolo", tmp_path / "in", META, [image])
    head, line, end = (tmp_path / "in" / SIDECAR).read_text().splitlines()
    changed = json.loads(line)
    changed["image"] |= change
    text = "\n".join((head, json.dumps(changed), end, ""))
    (tmp_path / "in" / SIDECAR).write_text(text)
    for to in ("coco", "csv", "parquet"):
        refused(lambda to=to: convert(tmp_path / "in", tmp_path / to, to))


def test_a_sidecar_that_was_cut(tmp_path: Path) -> None:
    """Also between two lines, where what is left looks whole."""
    from tests.formats.conftest import write
    from tests.formats.scenes import scene

    made = scene(tmp_path)
    for to in ("yolo", "voc", "csv", "masks", "folder", "webdataset"):
        home = tmp_path / to
        write(to, home, made.meta, made)
        lines = (home / SIDECAR).read_bytes().splitlines(keepends=True)
        for kept in range(1, len(lines)):
            (home / SIDECAR).write_bytes(b"".join(lines[:kept]))
            refused(lambda home=home, to=to: open_dataset(home, to), "is cut short")
        (home / SIDECAR).write_bytes(b"".join(lines)[:-9])
        refused(lambda home=home, to=to: open_dataset(home, to), SIDECAR)


def test_text_that_is_read_is_not_without_end(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text('file_name\n"' + "x" * 300_000)
    refused(lambda: convert(tmp_path / "in" / "a.csv", tmp_path / "out", "coco"), "not CSV")
    (tmp_path / "empty").touch()
    refused(lambda: read(tmp_path / "empty"), "empty file")
