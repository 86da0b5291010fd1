"""`train`: interrupted or not it comes to the same; what cannot be done is told."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch import Tensor

import augpipe
from augpipe.data.dataset import FolderImages
from augpipe.errors import DataError, DivergedError, UsageError
from augpipe.pipeline import Pipeline
from augpipe.recipe import load
from augpipe.regularizers.wrapper import Regularized
from augpipe.training import running
from augpipe.training.classifier import Classifier
from augpipe.training.data import open_splits
from augpipe.training.evaluation import for_evaluation
from augpipe.training.models import load_model
from augpipe.training.results import Result
from augpipe.training.running import train
from tests.training.support import (
    GARMENTS,
    NOISY,
    ROOT,
    Broken,
    Never,
    recipe,
    sourced,
    whole,
    write_idx_set,
)

EPOCH = 24  # reads of training images
TRIED = 4  # two images as training sees them, and as a test does


def weights(out: Path) -> dict[str, Tensor]:
    return load_file(out / "model.safetensors")


def metrics(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same_run(a: Path, b: Path) -> None:
    """Asserts that two runs came to the same: weights to the bit, each logged figure, result."""
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert metrics(a) == metrics(b)
    results = [json.loads((out / "result.json").read_text()) for out in (a, b)]
    for each in results:
        each.pop("seconds")
    assert results[0] == results[1]


def go(source: Any, out: Path | None, data: Any, **options: Any) -> Result:
    return train(source, data, out, workers=0, accelerator="cpu", devices=1, **options)


@pytest.fixture(scope="module")
def done(garments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all there is that has a state, uninterrupted."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "whole"
    go(NOISY, out, whole(garments))
    return out


# ---------------------------------------------------------------- what a run leaves


def test_a_run_leaves_what_it_promises(done: Path) -> None:
    names = {each.name for each in done.iterdir()}
    assert names == {
        "recipe.yaml",
        "metrics.csv",
        "tensorboard",
        "curve.png",
        "checkpoints",
        "model.safetensors",
        "result.json",
    }
    assert {each.name for each in (done / "checkpoints").iterdir()} == {
        "last.safetensors",
        "best.safetensors",
    }
    assert load(done / "recipe.yaml") == load(NOISY, ["train.lr=0.1"])  # every value written out
    rows = metrics(done)
    for name in ("train_acc", "val_acc", "val_loss"):
        assert [int(row["epoch"]) for row in rows if row[name]] == [0, 1, 2, 3], name
    assert [int(row["step"]) for row in rows if row["train_loss"]] == [
        9,
        11,
    ]  # each tenth, the last
    assert [float(row["lr"]) for row in rows if row["lr"]] != []


def test_the_same_call_makes_the_same_run(done: Path, garments: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    result = go(NOISY, tmp_path / "again", whole(garments))
    assert torch.equal(torch.get_rng_state(), before)  # the caller's generator is left alone
    same_run(done, tmp_path / "again")
    assert result.steps == 12 and result.epochs == 4 and result.measured_on == "validation"
    assert result.gap == result.train_accuracy - result.accuracy


def test_another_seed_makes_another_run(done: Path, garments: Path, tmp_path: Path) -> None:
    go({**NOISY, "seed": 4}, tmp_path / "other", whole(garments))
    first, second = weights(done), weights(tmp_path / "other")
    assert not torch.equal(first["conv.weight"], second["conv.weight"])


# ---------------------------------------------------------------- interrupted


@pytest.mark.parametrize("after", [5, 2 * EPOCH + 11])
@pytest.mark.parametrize("what", [RuntimeError("disk on fire"), KeyboardInterrupt()], ids=repr)
def test_a_run_that_broke_off_goes_on_to_the_same(
    done: Path, garments: Path, tmp_path: Path, what: BaseException, after: int
) -> None:
    out, splits = tmp_path / "out", whole(garments)
    handler = signal.getsignal(signal.SIGINT)
    broken = sourced(splits, Broken(splits.train.source, after, what))
    expected = KeyboardInterrupt if isinstance(what, KeyboardInterrupt) else DataError
    with pytest.raises(expected) as caught:
        go(NOISY, out, broken)
    if expected is DataError:
        assert "disk on fire" in str(caught.value)
    elif after > EPOCH:
        assert "the same call goes on" in caught.value.__notes__[0]
    assert signal.getsignal(signal.SIGINT) is handler  # the next Ctrl-C works too
    assert not (out / "result.json").exists()
    assert (out / "checkpoints" / "last.safetensors").exists() == (after > EPOCH)
    reads = Broken(splits.train.source, 10**6, "")
    go(NOISY, out, sourced(splits, reads))
    same_run(done, out)
    # The epochs that were whole are not done again: four, less two, and one read to measure.
    assert 10**6 - reads.left == (3 if after > EPOCH else 5) * EPOCH + TRIED


def test_what_a_run_says_as_it_goes(garments: Path, tmp_path: Path) -> None:
    source, splits, said = recipe("label_smoothing", epochs=3), whole(garments), []
    broken = sourced(splits, Broken(splits.train.source, 2 * EPOCH + 5, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        go(source, tmp_path / "a", broken, say=said.append)
    assert said[0].splitlines()[1] == (
        "sgd, lr 0.1 cosine after 5% of warm-up, float32, 9 steps of 8 images"
    )
    early, said = said, []
    result = go(source, tmp_path / "a", splits, say=said.append)
    assert said[0] == early[0]
    assert said[1] == f"going on after epoch {len(early) - 1} of 3"
    assert [line.split(":")[0] for line in said[2:]] == [
        f"epoch {k}/3" for k in range(len(early), 4)
    ]
    form = r"epoch \d/3: train_loss \d\.\d+, train_acc \d\.\d+, val_loss .*, val_acc .* s"
    assert all(re.fullmatch(form, line) for line in (early[1], said[-1])), (early, said)
    before = float(early[-1].split(", ")[-1].removesuffix(" s"))
    assert result.seconds >= before
    said = []
    go(source, tmp_path / "a", splits, say=said.append)
    assert said == [f"{tmp_path / 'a'}: finished already"]


def test_a_killed_run_goes_on_to_the_same(done: Path, garments: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from tests.training.support import NOISY, Broken, sourced, whole\n"
        "from augpipe.training.running import train\n"
        "torch.set_num_threads(1)\n"
        "splits = whole(Path(sys.argv[1]))\n"
        f"killed = sourced(splits, Broken(splits.train.source, {2 * EPOCH + 11}, 'SIGKILL'))\n"
        "train(NOISY, killed, sys.argv[2], workers=0, accelerator='cpu', devices=1)\n"
    )
    child = subprocess.run([sys.executable, "-c", script, garments, out], cwd=ROOT)
    assert child.returncode == -signal.SIGKILL
    go(NOISY, out, whole(garments))
    same_run(done, out)


def test_a_run_killed_while_it_was_measured_gets_its_final_weights(
    done: Path, garments: Path, tmp_path: Path
) -> None:
    out, splits = tmp_path / "out", whole(garments)
    killed = sourced(
        splits, Broken(splits.train.source, TRIED + 4 * EPOCH + 3, RuntimeError("late"))
    )
    with pytest.raises(DataError):
        go(NOISY, out, killed)  # all four epochs are done
    reads = Broken(splits.train.source, 10**6, "")
    go(NOISY, out, sourced(splits, reads))
    assert 10**6 - reads.left == EPOCH + TRIED  # only measured
    same_run(done, out)  # with the averaged weights: `finish` was called


@pytest.mark.parametrize("regularize", [{"swa": {"start": 2}}, {"early_stopping": "val_loss"}])
def test_final_weights_that_need_more_survive_a_late_kill_too(
    garments: Path, tmp_path: Path, regularize: Any
) -> None:
    source, splits = recipe(regularize), whole(garments)
    go(source, tmp_path / "a", splits)
    reads = (
        TRIED + 4 * EPOCH + 3 + (EPOCH if "swa" in regularize else 0)
    )  # a pass for the statistics
    with pytest.raises(DataError):
        go(
            source,
            tmp_path / "b",
            sourced(splits, Broken(splits.train.source, reads, RuntimeError("late"))),
        )
    go(source, tmp_path / "b", splits)
    same_run(tmp_path / "a", tmp_path / "b")


def test_by_steps_a_run_ends_within_an_epoch_and_goes_on(garments: Path, tmp_path: Path) -> None:
    source, splits = recipe("label_smoothing", steps=7), whole(garments)
    result = go(source, tmp_path / "a", splits)
    assert result.steps == 7
    with pytest.raises(DataError):
        go(
            source,
            tmp_path / "b",
            sourced(splits, Broken(splits.train.source, 30, RuntimeError())),
        )
    go(source, tmp_path / "b", splits)
    same_run(tmp_path / "a", tmp_path / "b")


# ---------------------------------------------------------------- finished


def test_a_finished_run_is_not_done_again(done: Path, garments: Path) -> None:
    splits = whole(garments)
    never = sourced(splits, Never(30))
    before = {each: each.stat().st_mtime_ns for each in done.rglob("*")}
    result = go(NOISY, done, never)
    assert result == Result.read(done / "result.json")[0]
    assert {each: each.stat().st_mtime_ns for each in done.rglob("*")} == before


def test_the_weights_are_those_of_the_result(done: Path, garments: Path) -> None:
    model = load_model(done / "model.safetensors")
    assert not model.training and list(model.classes) == ["bag", "coat", "sandal"]  # type: ignore[arg-type]
    result = json.loads((done / "result.json").read_text())
    splits, images = open_splits(garments, 0.2, 3), FolderImages(garments)
    pipe = Pipeline(for_evaluation(load(NOISY)))

    def share(indices: Any) -> float:
        x = np.stack([np.asarray(pipe(images[k][0])) for k in indices]).transpose(0, 3, 1, 2)
        with torch.no_grad():
            found = model(torch.from_numpy(x)).argmax(1).tolist()
        return float(np.mean([a == images.targets[k] for a, k in zip(found, indices, strict=True)]))

    # Lightning's means are in float32.
    assert result["accuracy"] == pytest.approx(share(splits.validation.indices), abs=1e-6)
    assert result["train_accuracy"] == pytest.approx(share(splits.train.indices), abs=1e-6)


def test_the_log_tells_final_accuracies_apart(done: Path) -> None:
    rows = metrics(done)
    result = Result.read(done / "result.json")[0]
    for column, value in (
        ("final_train_acc", result.train_accuracy),
        ("final_val_acc", result.accuracy),
        ("final_val_loss", result.loss),
    ):
        (found,) = [float(row[column]) for row in rows if row.get(column)]
        assert found == pytest.approx(value, rel=1e-6)  # text of a float32
    assert not any("test_acc" in row for row in rows)


@pytest.mark.parametrize(
    "technique",
    [
        {"shake_drop": {"p": 0.5}},
        {"dropout": {"p": {"start": 0.1, "end": 0.6, "steps": 9}, "scale": "at_test"}},
        {"batch_norm": {"on": "fc"}},
        {"standout": {"on": "fc"}},
        {"spectral_norm": {"on": "fc"}},
        "share",
    ],
    ids=lambda each: each if isinstance(each, str) else next(iter(each)),
)
def test_a_network_comes_back_with_what_acts_at_test(
    technique: Any, garments: Path, tmp_path: Path
) -> None:
    content = recipe({"label_smoothing": 0.1}, technique, {"ema": {"decay": 0.5}}, model="wrn_16_1")
    result = go(content, tmp_path / "out", whole(garments))
    model = load_model(tmp_path / "out" / "model.safetensors")
    assert not model.training
    splits, images = open_splits(garments, 0.2, 3), FolderImages(garments)
    pipe = Pipeline(for_evaluation(load(content)))
    x = np.stack([np.asarray(pipe(images[k][0])) for k in splits.validation.indices])
    y = torch.tensor([images.targets[k] for k in splits.validation.indices])
    with torch.no_grad():
        loss = F.cross_entropy(model(torch.from_numpy(x.transpose(0, 3, 1, 2))), y)
    assert loss.item() == pytest.approx(result.loss, rel=1e-5)  # float32, means of batches


def test_another_recipe_or_other_data_are_refused(
    done: Path, garments: Path, splits_folder: Path
) -> None:
    for change, words in (
        ({"seed": 4}, r"\(there: seed: 3; here: seed: 4\)"),
        ({"regularize": []}, r"\(there: regularize:; here: train: "),
    ):
        with pytest.raises(UsageError, match=f"holds a run of another recipe: .* {words}"):
            go({**NOISY, **change}, done, whole(garments))
    with pytest.raises(UsageError, match="holds a run of another data: name another folder"):
        go(NOISY, done, open_splits(splits_folder, 0.2, 3))


def test_a_pickled_checkpoint_is_refused(garments: Path, tmp_path: Path) -> None:
    last = tmp_path / "out" / "checkpoints" / "last.safetensors"
    last.parent.mkdir(parents=True)
    torch.save({"state_dict": {}}, last)
    with pytest.raises(DataError, match=r"last\.safetensors: is a pickle"):
        go(NOISY, tmp_path / "out", whole(garments))


def test_a_broken_result_is_named(garments: Path, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"accuracy": 1}')
    with pytest.raises(DataError, match=r"result\.json: is not a result"):
        go(NOISY, tmp_path, whole(garments))


# ---------------------------------------------------------------- divergence


def test_a_loss_that_is_no_number_names_the_step_and_keeps_what_was(
    garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shares = iter([1.0] * 100)
    rule = Classifier.share_of_rate
    # Good for the first epoch, far too much in the second.
    monkeypatch.setattr(
        Classifier,
        "share_of_rate",
        lambda self, k: next(shares) * (rule(self, k) if k < 4 else 1e30),
    )
    with pytest.raises(DivergedError) as caught:
        go(recipe(), out, whole(garments))
    words = str(caught.value)
    assert "at step 5: lower train.lr (now 0.1)" in words and caught.value.exit_code == 1
    assert not (out / "result.json").exists()
    _finite(out / "checkpoints" / "last.safetensors", step=3)


@pytest.mark.parametrize("validation", [True, False])
def test_an_epoch_that_ended_in_no_numbers_is_not_kept(
    garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validation: bool
) -> None:
    """The last step of the second epoch goes astray: no loss of training has told so yet."""
    out = tmp_path / "out"
    splits = whole(garments)
    if validation:  # weights of 1e37 are numbers; what they make of an image is none
        rule = Classifier.share_of_rate
        monkeypatch.setattr(
            Classifier, "share_of_rate", lambda self, k: 1e38 if k == 5 else rule(self, k)
        )
    else:
        own = Regularized.after_step

        def astray(self: Regularized) -> None:
            own(self)
            if self.steps == 6:
                self.model.fc.weight.data[1, 2] = torch.nan  # type: ignore[union-attr,index]

        monkeypatch.setattr(Regularized, "after_step", astray)
        splits = replace(
            splits,
            test=splits.validation,
            validation=replace(splits.validation, indices=np.zeros(0, np.int64)),
        )
    with pytest.raises(DivergedError, match="at step 6: lower train"):
        go(recipe(), out, splits)
    _finite(out / "checkpoints" / "last.safetensors", step=3)


def _finite(checkpoint: Path, step: int) -> None:
    from augpipe.tensors import load_tree

    tree, _ = load_tree(checkpoint)
    assert tree["global_step"] == step
    assert all(bool(torch.isfinite(each).all()) for each in tree["state_dict"].values())


# ---------------------------------------------------------------- what validation and test see


def test_validation_sees_no_augmentation(
    garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[bytes]] = {"training_step": set(), "validation_step": set()}
    for name, pixels in seen.items():
        _spy(monkeypatch, name, pixels)
    go(recipe(batch=["mixup"], epochs=3), None, whole(garments))
    plain = Pipeline(load({"version": 1, "sample": [{"resize": 8}, {"normalize": "half"}]}))
    images, splits = FolderImages(garments), open_splits(garments, 0.2, 3)
    expected = {
        np.asarray(plain(images[k][0])).transpose(2, 0, 1).tobytes()
        for k in splits.validation.indices
    }
    assert seen["validation_step"] == expected
    assert len(seen["training_step"]) == 3 * EPOCH  # never one twice


def _spy(monkeypatch: pytest.MonkeyPatch, name: str, pixels: set[bytes]) -> None:
    own = getattr(Classifier, name)

    def spying(self: Any, batch: Any, k: int) -> Any:
        pixels.update(each.numpy().tobytes() for each in batch[0])
        return own(self, batch, k)

    monkeypatch.setattr(Classifier, name, spying)


def test_the_test_split_is_what_is_judged_by(splits_folder: Path) -> None:
    lines: list[str] = []
    result = go(recipe(batch_size=5, epochs=1), None, splits_folder, say=lines.append)
    assert result.measured_on == "test" and result.steps == 3
    said, epoch = lines
    assert epoch.startswith("epoch 1/1: train_loss ")
    assert "15 images of 3 classes to train on, 9 to validate on, 6 to test on" in said
    assert "validation and test: resize, normalize" in said


def test_grey_images(tmp_path: Path) -> None:
    root = write_idx_set(tmp_path / "data", count=60)
    result = go(recipe(epochs=6, lr=0.05), tmp_path / "out", root)
    # Three classes that differ by 60 levels: a network that got the labels mixed up has a third.
    assert result.measured_on == "test" and result.accuracy > 0.8
    model = load_model(tmp_path / "out" / "model.safetensors")
    assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 3)


def test_the_measure_is_that_of_the_dataset_not_of_the_batches(garments: Path) -> None:
    """Batches of 8 and of 7 leave rests of other sizes: the mean over images is the same."""
    by_size = [
        go(recipe(batch_size=size, epochs=1, steps=1, lr=1e-12), None, whole(garments))
        for size in (8, 7)
    ]
    assert by_size[0].train_accuracy == pytest.approx(by_size[1].train_accuracy, abs=1e-6)
    assert by_size[0].loss == pytest.approx(by_size[1].loss, rel=1e-3)  # one step of batch norm


# ---------------------------------------------------------------- schedules and optimizers


@cache
def _rates(schedule: str, warmup: float) -> tuple[float, ...]:
    rule = load(recipe(schedule=schedule, warmup=warmup)).train
    own = Classifier.__new__(Classifier)
    object.__setattr__(own, "__dict__", {"_rule": rule, "_steps": 20})
    return tuple(Classifier.share_of_rate(own, k) for k in range(21))


def test_the_learning_rate_rises_and_falls_as_torchs_schedules() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    expected = []
    for _ in range(21):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert _rates("cosine", 0.0) == pytest.approx(expected, abs=1e-12)
    assert _rates("linear", 0.0) == pytest.approx([1 - k / 20 for k in range(21)])
    assert set(_rates("constant", 0.0)) == {1.0}
    warm = _rates("cosine", 0.2)
    assert warm[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8]) and max(warm) == warm[4] == 1.0
    assert warm[-1] == pytest.approx(0.0) and min(warm[:-1]) > 0


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_optimizers_and_precisions(garments: Path, optimizer: str, precision: str) -> None:
    source = recipe(optimizer=optimizer, precision=precision, epochs=1)
    assert go(source, None, whole(garments)).steps == 3


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"accelerator": "gpu"}, "cannot be set up so"),
        ({"accelerator": "abacus"}, "cannot be set up so"),
        ({"devices": "many"}, "cannot be set up so"),
        ({"devices": 0}, "cannot be set up so"),
        ({"strategy": "divide"}, "cannot be set up so"),
    ],
    ids=str,
)
def test_a_machine_that_is_not_there(
    splits_folder: Path, options: dict[str, Any], words: str
) -> None:
    if options.get("accelerator") == "gpu" and torch.cuda.is_available():
        pytest.skip("there is one")
    known: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "workers": 0}
    with pytest.raises(UsageError, match=words) as caught:
        train(recipe(batch_size=5), splits_folder, **{**known, **options})
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_half_precision_needs_a_gpu(splits_folder: Path) -> None:
    with pytest.raises(UsageError, match="cannot be set up so"):
        go(recipe(batch_size=5, precision="float16"), None, splits_folder)


def test_where_nothing_can_be_written(splits_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises((OSError, UsageError, DataError), match="file"):
            go(recipe(batch_size=5), out, splits_folder)


def test_unknown_models_and_batches_that_do_not_fill(splits_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"timm has no model 'wrn_11_1'"):
        go(recipe(model="timm.wrn_11_1"), tmp_path / "out", splits_folder)
    with pytest.raises(UsageError, match="batch_size 16 is more than the 15 training images"):
        go(recipe(batch_size=16), tmp_path / "out", splits_folder)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="no such file or folder"):
        go(recipe(), tmp_path / "out", tmp_path / "nonesuch")


def test_nothing_to_measure_on(garments: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing to measure on: no test split, and train\."):
        go(recipe(validation=0.0), None, garments)


def test_train_is_at_the_top() -> None:
    assert augpipe.train is running.train


# ---------------------------------------------------------------- two ranks


def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    """gloo on the CPU, half the batch each; `sam` averages its second gradients too."""
    options = {"model": "vit_small", "epochs": 2, "lr": 0.02}
    item = {"sam": {"rho": 0.05}}
    one = recipe(item, "label_smoothing", batch_size=16, **options)
    two = recipe(item, "label_smoothing", batch_size=8, **options)
    for name, source in (("one", one), ("two", two)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(source))
    command = [sys.executable, "-m", "augpipe", "train", tmp_path / "two.yaml", GARMENTS]
    more = ["--out", tmp_path / "two", "--workers", "0", "--accelerator", "cpu"]
    words = [*command, *more, "--devices", "2", "--strategy", "ddp"]
    child = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert "8 regularizers" not in child.stdout and child.stdout.count("images of 10 classes") == 1
    result = go(one, tmp_path / "one", GARMENTS)
    other = Result.read(tmp_path / "two" / "result.json")[0]
    assert (other.steps, other.epochs) == (result.steps, result.epochs) == (22, 2)
    first, second = weights(tmp_path / "one"), weights(tmp_path / "two")
    apart = max(float((first[name] - second[name]).abs().max()) for name in first)
    moved = max(float(each.abs().max()) for each in first.values())
    # No batch normalization, whose statistics are those of a rank's half. What is left is the
    # order in which float32 sums up: 1e-7 a step, which 22 steps with momentum 0.9 make larger.
    assert apart < 1e-4 * moved
    assert other.loss == pytest.approx(result.loss, abs=1e-4)
    assert other.train_accuracy == pytest.approx(result.train_accuracy, abs=1.5 / 190)
