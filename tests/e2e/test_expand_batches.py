"""Expansion of what needs a batch, and of images that a generator adds."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from augpipe.cli.main import main
from augpipe.errors import AugpipeError, DataError, RecipeError, UsageError
from augpipe.expansion import expand, verify
from augpipe.learned.autoencoder import Autoencoder
from augpipe.learned.generator import Generator
from augpipe.learned.weights import load_net, save_net
from augpipe.pipeline import load
from augpipe.rng import Draws
from tests.e2e.conftest import CLASSES
from tests.e2e.expansion import rows, start, tree

MIXED: dict[str, Any] = {
    "version": 1,
    "seed": 5,
    "sample": ["horizontal_flip", {"random_crop": {"size": 28, "padding": 2}}],
    "batch": [
        {"latent_interpolate": [0.2, 0.5]},
        {"mixup": {"alpha": 1.0, "mode": "element", "p": 0.7}},
        {"normalize": "half"},
    ],
}


def written(tmp_path: Path, content: dict[str, Any]) -> Path:
    import yaml

    path = tmp_path / "mixed.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path))


# ---------------------------------------------------------------- batches


def test_images_and_shares_are_those_of_the_batch_section(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = expand(MIXED, source, out, copies=2, batch_size=5)
    assert (summary.written, summary.left_out) == (24, ("normalize",))
    content = {**MIXED, "batch": MIXED["batch"][:-1], "classes": 3}
    pipe, found = load(content), rows(out)
    files = sorted(source.rglob("*.png"))
    assert {len(row["batch"]) for row in found} == {4}  # 12 in three parts of one size
    for row in found:
        images = [pixels(files[k]) for k in row["batch"]]
        crops = pipe.apply(images, row["batch"], row["copy"])
        stacked = torch.from_numpy(np.stack(crops))[:, None]
        labels = torch.tensor([k // 4 for k in row["batch"]])
        made, shares = pipe.batch(stacked, labels, index=row["batch"], epoch=row["copy"])
        at = row["batch"].index(row["index"])
        assert np.array_equal(pixels(out / row["output"]), made[at, 0].numpy()), row["output"]
        named = dict(zip(CLASSES, shares[at].tolist(), strict=True))
        assert row["shares"] == {name: share for name, share in named.items() if share}
    assert any(len(row["shares"]) > 1 for row in found)
    assert len({tuple(row["batch"]) for row in found if row["copy"] == 0}) == 3
    both = [{tuple(row["batch"]) for row in found if row["copy"] == k} for k in (0, 1)]
    assert both[0] != both[1]  # each copy in other company
    assert found[0]["parameters"]["latent_interpolate#0"]["lam"] >= 0.2
    assert verify(out).exit_code == 0


@pytest.mark.parametrize(("moment", "count"), [("before", 5), ("after", 17)])
def test_killed_and_resumed_by_any_number_of_workers(
    source: Path, tmp_path: Path, moment: str, count: int
) -> None:
    (source / "coat" / "broken.png").write_bytes(b"nothing")
    recipe = written(tmp_path, {**MIXED, "gan_generate": {"balance": True}})
    weights = rewritten(tmp_path / "own.safetensors", CLASSES)
    arguments: dict[str, Any] = {
        "recipe": recipe, "source": source, "copies": 3, "keep_originals": True,
        "batch_size": 6, "overrides": [f"gan_generate.model={weights}"],
    }  # fmt: skip
    whole = expand(**arguments, out=tmp_path / "whole")
    assert (whole.images, whole.skipped) == (15, 1)  # two classes are filled up to five
    out = tmp_path / "out"
    process = start(moment, count, **arguments, out=out, workers=2)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert tree(out) != tree(tmp_path / "whole")
    expand(**arguments, out=out, workers=1)
    assert tree(out) == tree(tmp_path / "whole")
    report = verify(out)
    assert (report.findings, report.checked, report.skipped) == ((), 56, 1)


def test_verify_names_what_changed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expand(MIXED, source, out, batch_size=6)
    first = rows(out)[0]
    (out / first["output"]).write_bytes(b"")
    (found,) = verify(out).findings
    assert (found.kind, found.where) == ("altered", first["output"])
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[1:]))
    text = str(verify(out))
    assert "shared a batch with image 0, which the manifest lacks" in text
    expand(MIXED, source, out, batch_size=6)  # makes the batch again
    assert verify(out).exit_code == 0
    shutil.copy(source / "bag" / "bag_01.png", source / "bag" / "bag_00.png")
    assert {each.kind for each in verify(out).findings} == {"source"}


def test_images_that_are_no_batch_are_told(source: Path, tmp_path: Path) -> None:
    Image.new("L", (20, 30)).save(source / "bag" / "odd.png")
    with pytest.raises(AugpipeError, match=r"a batch needs one size.*0 of 13 written and kept"):
        expand({**MIXED, "sample": []}, source, tmp_path / "out")
    flat = tmp_path / "flat"
    shutil.copytree(source / "coat", flat)
    with pytest.raises(AugpipeError, match="latent_interpolate#0: needs the images' classes"):
        expand(MIXED, flat, tmp_path / "other")
    with pytest.raises(UsageError, match="batch_size is 0"):
        expand(MIXED, source, tmp_path / "third", batch_size=0)


def test_grey_beside_colour_becomes_colour(source: Path, tmp_path: Path) -> None:
    Image.new("RGB", (28, 28), (200, 30, 30)).save(source / "bag" / "red.png")
    out = tmp_path / "out"
    expand({**MIXED, "batch": ["mixup"]}, source, out)
    assert {pixels(path).shape for path in out.rglob("*.png")} == {(28, 28, 3)}


def test_an_image_left_out_does_not_make_the_others_colour(source: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), (200, 30, 30)).save(source / "bag" / "small.png")
    content = {"version": 1, "sample": [{"random_crop": 28}], "batch": ["mixup"]}
    out = tmp_path / "out"
    assert expand(content, source, out).skipped == 1
    assert {pixels(path).shape for path in out.rglob("*.png")} == {(28, 28)}
    assert verify(out).exit_code == 0


def test_an_image_that_fits_some_batches_stays_in_those(source: Path, tmp_path: Path) -> None:
    Image.new("L", (20, 20), 99).save(source / "bag" / "small.png")
    crop = {"random_crop": {"size": 24, "p": 0.5}}
    content = {
        "version": 1, "seed": 2, "sample": [crop, {"resize": {"size": [28, 28]}}],
        "batch": [{"mixup": {"alpha": 1.0}}],
    }  # fmt: skip
    out = tmp_path / "out"
    summary = expand(content, source, out, copies=6)
    small = [row for row in rows(out) if row["source"] == "bag/small.png"]
    assert summary.skipped == 1 and 0 < len(small) < 6
    report = verify(out)
    assert (report.findings, report.skipped) == ((), 1)
    before = tree(out)
    again = expand(content, source, out, copies=6)
    assert again.skipped == 1 and tree(out) == before


def test_weights_of_the_batch_section_belong_to_the_job(source: Path, tmp_path: Path) -> None:
    weights = rewritten(tmp_path / "own.safetensors", CLASSES)
    content = {"version": 1, "batch": [{"gan_replace": {"p": 0.5, "model": str(weights)}}]}
    out = tmp_path / "out"
    expand(content, source, out)
    assert verify(out).exit_code == 0
    net, about = load_net(weights, "gan", Generator)
    net.last.bias.data += 0.2
    save_net(weights, "gan", net, about)
    assert {each.kind for each in verify(out).findings} == {"weights", "differs"}
    with pytest.raises(UsageError, match="differs in the weights"):
        expand(content, source, out)


def test_weights_of_the_sample_section_belong_to_the_job(source: Path, tmp_path: Path) -> None:
    net, about = load_net("bundled", "autoencoder", Autoencoder)
    weights = tmp_path / "own.safetensors"
    save_net(weights, "autoencoder", net, about)
    content = {"version": 1, "sample": [{"latent_noise": {"model": str(weights)}}]}
    out = tmp_path / "out"
    expand(content, source, out)
    net.std *= 2
    save_net(weights, "autoencoder", net, about)
    assert {each.kind for each in verify(out).findings} == {"weights", "differs"}
    with pytest.raises(UsageError, match="differs in the weights"):
        expand(content, source, out)


def test_more_classes_than_folders_have_numbers(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    content = {"version": 1, "classes": 12, "batch": [{"mixup": {"alpha": 1.0}}]}
    expand(content, source, out)
    assert all(set(row["shares"]) <= set(CLASSES) for row in rows(out))
    with pytest.raises(UsageError, match="the recipe says classes: 2, the dataset has 3"):
        expand({**content, "classes": 2}, source, tmp_path / "two")


def test_what_a_format_cannot_hold_is_left_out(source: Path, tmp_path: Path) -> None:
    for path in source.rglob("*.png"):
        Image.open(path).convert("RGBA").save(path)
    out = tmp_path / "out"
    summary = expand({"version": 1, "batch": ["mixup"]}, source, out, format="jpeg")
    assert summary.skipped == 12 and "alpha" in (out / "errors.jsonl").read_text()


def test_classes_are_told_by_name_in_batches(source: Path, tmp_path: Path) -> None:
    weights = rewritten(tmp_path / "own.safetensors", CLASSES[::-1])
    content = {"version": 1, "batch": [{"gan_replace": {"p": 1.0, "model": str(weights)}}]}
    expand(content, source, tmp_path / "own")
    other = rewritten(tmp_path / "other.safetensors", CLASSES)
    expand({**content, "batch": [{"gan_replace": {"p": 1.0, "model": str(other)}}]}, source,
           tmp_path / "plain")  # fmt: skip
    name = "bag/bag_00__0.png"
    assert not np.array_equal(pixels(tmp_path / "own" / name), pixels(tmp_path / "plain" / name))


def test_truncation_is_of_the_noise(source: Path, tmp_path: Path) -> None:
    outs = []
    for truncation in (1.0, 0.3):
        rule = {"count": 3, "truncation": truncation}
        out = tmp_path / str(truncation)
        expand({"version": 1, "gan_generate": rule}, source, out)
        outs.append([pixels(p).astype(float) for p in sorted(out.rglob("coat/generated*"))])
    spread = [np.stack(each).std(axis=0).mean() for each in outs]
    assert spread[1] < 0.6 * spread[0]


def test_an_empty_class_is_filled(source: Path, tmp_path: Path) -> None:
    (source / "dress").mkdir()
    out = tmp_path / "out"
    expand({"version": 1, "gan_generate": {"balance": True}}, source, out)
    assert len(list((out / "dress").iterdir())) == 4
    assert verify(out).exit_code == 0


def test_a_broken_image_of_a_generated_ones_name(source: Path, tmp_path: Path) -> None:
    (source / "bag" / "generated_00000.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    assert expand({"version": 1, "gan_generate": {"count": 1}}, source, out).skipped == 1
    report = verify(out)
    assert (report.findings, report.skipped) == ((), 1)


@pytest.mark.parametrize(
    "change", [{"label": "hat"}, {"copy": None}, {"batch": [1]}, {"index": 1}], ids=str
)
def test_a_row_that_was_tampered_with_is_told(
    source: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    expand(MIXED, source, out)
    lines = (out / "manifest.jsonl").read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), **change})
    (out / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    assert verify(out).exit_code == 1


def test_another_library_may_change_the_size(source: Path, tmp_path: Path) -> None:
    crop = {"kornia.RandomResizedCrop": {"size": [40, 40], "p": 1.0}}
    content = {"version": 1, "batch": [crop, {"random_crop": 36}, "mixup"]}
    out = tmp_path / "out"
    expand(content, source, out)
    assert {pixels(path).shape for path in out.rglob("*.png")} == {(36, 36)}
    assert verify(out).exit_code == 0


def test_another_batch_size_is_another_expansion(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expand(MIXED, source, out, batch_size=6)
    with pytest.raises(UsageError, match=r"differs in batch_size \(6, now 4\)"):
        expand(MIXED, source, out, batch_size=4)


# ---------------------------------------------------------------- generated images


def rewritten(path: Path, classes: Any) -> Path:
    """Writes a generator of other class names: the first ones' images."""
    net, _ = load_net("bundled", "gan", Generator)
    small = Generator(len(classes))
    state = {**net.state_dict()}
    state["embedding.weight"] = state["embedding.weight"][: len(classes)].clone()
    small.load_state_dict(state)
    save_net(path, "gan", small, {"classes": list(classes)})
    return path


def test_classes_are_filled_up_with_images_of_their_own(source: Path, tmp_path: Path) -> None:
    for path in sorted((source / "bag").iterdir())[1:]:
        path.unlink()
    recipe = {"version": 1, "seed": 9, "gan_generate": {"balance": True, "count": 2}}
    out = tmp_path / "out"
    summary = expand(recipe, source, out, copies=2, keep_originals=True)
    assert summary.written == 3 * (4 + 2) * 3
    found = [row for row in rows(out) if row.get("generated")]
    names = [row["source"] for row in found if row["copy"] is None]
    assert names == [
        *(f"bag/generated_0000{k}.png" for k in range(5)),
        *(f"{name}/generated_0000{k}.png" for name in ("coat", "sandal") for k in range(2)),
    ]
    net, about = load_net("bundled", "gan", Generator)
    for row in found:
        from augpipe.learned.noise import normals

        key = Draws(9, np.array([row["index"]]), row["copy"] or 0, op="gan_generate").key("field")
        number = torch.tensor([about["classes"].index(row["label"])])
        made = net(normals(key, net.first.weight, (64,)), number)
        want = (255 * made).round().to(torch.uint8)[0, 0].numpy()
        assert np.array_equal(pixels(out / row["output"]), want), row["output"]
    assert len({row["sha256"] for row in found if row["copy"] is not None}) == 18
    assert verify(out).exit_code == 0


def test_other_weights_are_seen(source: Path, tmp_path: Path) -> None:
    weights = rewritten(tmp_path / "own.safetensors", CLASSES)
    recipe = {"version": 1, "gan_generate": {"count": 1, "model": str(weights)}}
    out = tmp_path / "out"
    expand(recipe, source, out)
    net, about = load_net(weights, "gan", Generator)
    net.last.bias.data += 0.1
    save_net(weights, "gan", net, about)
    assert [each.kind for each in verify(out).findings] == ["weights"] + ["source"] * 3
    with pytest.raises(UsageError, match=r"differs in the weights .*own\.safetensors \(their con"):
        expand(recipe, source, out)
    weights.unlink()
    with pytest.raises(DataError, match=r"own\.safetensors"):
        verify(out)


def test_what_cannot_be_generated(source: Path, tmp_path: Path, capsys: Any) -> None:
    adds = {"version": 1, "gan_generate": {"count": 1}}
    with pytest.raises(UsageError, match="put the images into class folders"):
        expand(adds, source / "bag", tmp_path / "out")
    (source / "bag").rename(source / "hat")
    with pytest.raises(UsageError, match="gan_generate: the generator knows no class 'hat'"):
        expand(adds, source, tmp_path / "hats")
    with pytest.raises(RecipeError, match=r"gan_generate: adds nothing: say count: N, balance"):
        load({"version": 1, "gan_generate": {"truncation": 0.7}})
    with pytest.raises(RecipeError, match=r"no parameter 'cuont'.*count"):
        load({"version": 1, "gan_generate": {"cuont": 3}})
    path = written(tmp_path, {**adds, "gan_generate": {"count": 1, "model": "none.safetensors"}})
    assert main(["expand", str(path), str(source), str(tmp_path / "none")]) == 1
    assert "none.safetensors" in capsys.readouterr().err
