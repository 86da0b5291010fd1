"""Which images are trained on, validated on and tested on; and in which batches they come."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.datasets import ImageFolder

import augpipe
from augpipe import recipe as recipes
from augpipe.data.dataset import FolderImages
from augpipe.errors import DataError, UsageError
from augpipe.training.data import AugmentedData, Part, hold_out, open_splits
from tests.training.support import CLASSES, recipe, write_idx, write_idx_set

# ---------------------------------------------------------------- splits


def files(part: Part) -> list[str]:
    images = FolderImages(part.source, part.split)
    return [images.paths[k].name for k in part.indices]


def test_a_folder_without_splits_gives_some_of_each_class_away(garments: Path) -> None:
    splits = open_splits(garments, 0.25, 3)
    assert list(splits.classes) == sorted(CLASSES) and splits.channels == 3
    assert splits.test is None
    assert splits.train.targets == ImageFolder(str(garments)).targets
    both = np.concatenate([splits.train.indices, splits.validation.indices])
    assert sorted(both) == list(range(30))
    held = [splits.validation.targets[k] for k in splits.validation.indices]
    assert Counter(held) == {0: 3, 1: 3, 2: 3}  # a quarter of 10, rounded up
    again = open_splits(garments, 0.25, 3)
    assert np.array_equal(again.train.indices, splits.train.indices)
    other = open_splits(garments, 0.25, 4)
    assert not np.array_equal(other.train.indices, splits.train.indices)


@pytest.mark.parametrize("name", ["validation", "val", "valid"])
def test_a_folder_with_splits_gives_nothing_away(splits_folder: Path, name: str) -> None:
    (splits_folder / "val").rename(splits_folder / name)
    splits = open_splits(splits_folder, 0.5, 3)
    assert splits.test is not None
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [15, 9, 6]
    assert [part.split for part in parts] == ["train", name, "test"]
    assert not set(files(parts[0])) & (set(files(parts[1])) | set(files(parts[2])))


def test_without_a_validation_split_some_is_held_out_and_the_test_split_left_alone(
    splits_folder: Path,
) -> None:
    shutil.rmtree(splits_folder / "val")
    splits = open_splits(splits_folder, 0.2, 3)
    assert splits.test is not None
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (12, 3, 6)
    assert splits.validation.split == "train"


def test_idx_files(tmp_path: Path) -> None:
    splits = open_splits(write_idx_set(tmp_path, packed=True), 0.2, 0)
    assert splits.test is not None
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (24, 6, 15)
    assert splits.channels == 1 and list(splits.classes) == ["0", "1", "2"]


def test_the_highest_class_of_idx_files_may_be_missing_from_the_test(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    labels = np.arange(15) % 2
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", labels, packed=False)
    assert list(open_splits(tmp_path, 0.2, 0).classes) == ["0", "1", "2"]
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", labels + 2, packed=False)
    with pytest.raises(
        DataError, match="the classes of test are not those of training: 3 is in one"
    ):
        open_splits(tmp_path, 0.2, 0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_other_classes_in_a_split_are_refused(splits_folder: Path, split: str) -> None:
    (splits_folder / split / "bag").rename(splits_folder / split / "boot")
    with pytest.raises(
        DataError, match=f"the classes of {split} are not those of training: bag is in one"
    ):
        open_splits(splits_folder, 0.2, 0)


def test_one_class_or_none_is_no_task(garments: Path, tmp_path: Path) -> None:
    shutil.copytree(garments / "bag", tmp_path / "one" / "bag")
    with pytest.raises(DataError, match="has one class, 'bag': training needs"):
        open_splits(tmp_path / "one", 0.2, 0)
    with pytest.raises(DataError, match="has no class folders: training needs"):
        open_splits(garments / "bag", 0.2, 0)
    with pytest.raises(UsageError, match="no such file or folder"):
        open_splits(tmp_path / "nonesuch", 0.2, 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        open_splits(tmp_path / "empty", 0.2, 0)


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=60),
    st.floats(0, 0.9),
    st.integers(0, 2**63 - 1),
)
def test_hold_out_divides_class_by_class(targets: list[int], share: float, seed: int) -> None:
    kept, out = hold_out(targets, share, seed)
    assert sorted([*kept, *out]) == list(range(len(targets)))  # disjoint and complete
    labels = np.array(targets)
    for label, count in Counter(targets).items():
        given_away = int((labels[out] == label).sum())
        assert given_away == min(int(np.ceil(share * count)), count - 1)
        assert (labels[kept] == label).any()  # never the last one
    again = hold_out(targets, share, seed)
    assert np.array_equal(again[0], kept) and np.array_equal(again[1], out)


def test_hold_out_draws_anew_for_another_seed_and_evenly() -> None:
    targets = [0] * 20
    counts: Counter[int] = Counter()
    for seed in range(400):
        counts.update(hold_out(targets, 0.25, seed)[1].tolist())
    # 400 draws of 5 in 20: 100 each, standard deviation 8.7; five of these.
    assert all(56 < counts[k] < 144 for k in range(20))


# ---------------------------------------------------------------- the loader's indices


class Numbered:
    """Images that tell their index; the target is the index."""

    def __init__(self, count: int = 20) -> None:
        self.images = [np.full((6, 6, 3), 10 * k, np.uint8) for k in range(count)]
        for k, image in enumerate(self.images):
            image[k % 6] += 40

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], index


PIPE = {
    "version": 1,
    "seed": 9,
    "sample": ["vertical_flip", {"rotate": [-40, 40]}, {"brightness": [0.5, 1]}],
}
CHOSEN = [3, 17, 0, 8, 12, 5, 19]


def seen(loader: Any) -> dict[int, torch.Tensor]:
    out: dict[int, torch.Tensor] = {}
    for images, targets in loader:
        for image, target in zip(images, targets.tolist(), strict=True):
            assert target not in out, "given twice"
            out[target] = image
    return out


@pytest.mark.parametrize("shuffle", [True, False])
def test_indices_are_all_there_is_keyed_by_themselves(shuffle: bool) -> None:
    pipe, base = augpipe.load(PIPE), Numbered()
    loader = pipe.loader(base, indices=CHOSEN, shuffle=shuffle, batch_size=3, workers=0, epoch=2)
    assert len(loader) == 3
    orders = []
    for epoch in (2, 3):
        got = seen(loader)
        orders.append(list(got))
        assert sorted(got) == sorted(CHOSEN)
        for index, image in got.items():
            alone = pipe(base[index][0], index=index, epoch=epoch)
            assert np.array_equal(image.permute(1, 2, 0).numpy(), alone)
    assert (orders == [CHOSEN, CHOSEN]) != shuffle
    if shuffle:
        assert orders[0] != orders[1]


@pytest.mark.parametrize("drop_last", [True, False])
def test_the_ranks_share_the_indices(drop_last: bool) -> None:
    pipe, base = augpipe.load(PIPE), Numbered()
    shares = [
        pipe.loader(
            base,
            indices=CHOSEN,
            rank=rank,
            world_size=2,
            workers=0,
            batch_size=2,
            drop_last=drop_last,
        )
        for rank in range(2)
    ]
    for _ in range(2):
        parts = [[int(t) for _, targets in each for t in targets] for each in shares]
        count = Counter(parts[0] + parts[1])
        if drop_last:  # 7 images: 3 a rank, of which a batch of 2
            assert [len(part) for part in parts] == [2, 2]
            assert max(count.values()) == 1 and set(count) <= set(CHOSEN)
        else:  # the epoch's first is given again
            assert [len(part) for part in parts] == [4, 4]
            assert set(count) == set(CHOSEN) and sum(count.values()) == 8


def test_a_saved_state_goes_on_in_the_indices() -> None:
    pipe, base = augpipe.load(PIPE), Numbered()

    def make() -> Any:
        return pipe.loader(base, indices=CHOSEN, batch_size=2, workers=0)

    whole = list(seen(make()))
    loader = make()
    batches = iter(loader)
    first = [int(t) for _ in range(2) for t in next(batches)[1]]
    state = loader.state_dict()
    other = make()
    other.load_state_dict(state)
    assert first + list(seen(other)) == whole
    with pytest.raises(UsageError, match="length"):
        pipe.loader(base, indices=CHOSEN[1:], workers=0).load_state_dict(state)


def test_wrong_indices_are_refused() -> None:
    pipe, base = augpipe.load(PIPE), Numbered()
    with pytest.raises(UsageError, match="indices name a sample more than once"):
        pipe.loader(base, indices=[1, 2, 1])
    with pytest.raises(UsageError, match="more than once"):
        pipe.loader(base, indices=[19, -1])
    with pytest.raises(UsageError, match="from the sampler or from indices"):
        pipe.loader(base, indices=[1], sampler=[1])
    with pytest.raises(IndexError, match="index 20 is out of range"):
        pipe.loader(base, indices=[20])
    assert seen(pipe.loader(base, indices=[], workers=0)) == {}


# ---------------------------------------------------------------- the data module


def on_rank(data: AugmentedData, rank: int, world: int, epoch: int = 0) -> AugmentedData:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    progress = SimpleNamespace(current=SimpleNamespace(processed=epoch))
    loop = SimpleNamespace(epoch_progress=progress)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank,
        world_size=world,
        fit_loop=loop,
        strategy=strategy,
    )
    return data


def module(source: Path, rank: int = 0, world: int = 1, epoch: int = 0) -> AugmentedData:
    made = AugmentedData(recipes.load(recipe(batch_size=4)), source, workers=0)
    return on_rank(made, rank, world, epoch)


def images_of(loader: Any) -> list[bytes]:
    return [each.numpy().tobytes() for x, _ in loader for each in x]


def test_batches_are_floats_of_the_right_size(splits_folder: Path) -> None:
    data = module(splits_folder)
    for loader, count in (
        (data.train_dataloader(), 12),  # the last of 15 fill no batch
        (data.val_dataloader(), 9),
        (data.test_dataloader(), 6),
        (data.fitted_dataloader(), 15),
    ):
        batches = list(loader)
        assert sum(len(x) for x, _ in batches) == count
        for x, y in batches:
            assert x.dtype == torch.float32 and x.shape[1:] == (3, 8, 8)
            assert y.dtype == torch.int64 and -1 <= float(x.min()) < float(x.max()) <= 1


def test_without_normalize_floats_are_from_0_to_1(splits_folder: Path) -> None:
    plain = recipes.load({"version": 1, "sample": ["horizontal_flip"]})
    rule = plain.train.model_copy(update={"batch_size": 4})
    data = AugmentedData(plain.model_copy(update={"train": rule}), splits_folder, workers=0)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        x, _ = next(iter(loader))
        assert x.dtype == torch.float32 and float(x.min()) == 0 and 0.5 < float(x.max()) <= 1


def test_evaluation_sees_the_same_in_every_epoch_and_training_does_not(garments: Path) -> None:
    data = module(garments)
    for make in (data.val_dataloader, data.fitted_dataloader, data.test_dataloader):
        loader = make()
        first, second = images_of(loader), images_of(loader)
        assert first == second and len(set(first)) == len(first)
    train = data.train_dataloader()
    assert not set(images_of(train)) & set(images_of(train))  # brightness is drawn anew


def test_evaluation_is_the_plain_image(garments: Path) -> None:
    data = module(garments)
    plain = augpipe.load({"version": 1, "sample": [{"resize": 8}, {"normalize": "half"}]})
    images = FolderImages(garments)
    expected = [np.asarray(plain(images[k][0])) for k in data.splits.validation.indices]
    got = [x.permute(1, 2, 0).numpy() for batch, _ in data.val_dataloader() for x in batch]
    assert len(got) == len(expected) == 6
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_the_first_epoch_is_the_trainers(garments: Path) -> None:
    later = images_of(module(garments, epoch=1).train_dataloader())
    loader = module(garments).train_dataloader()
    assert images_of(loader) != later
    assert images_of(loader) == later


def test_two_ranks_divide_what_there_is(garments: Path) -> None:
    for name, count in (("val_dataloader", 6), ("fitted_dataloader", 24)):
        parts = [images_of(getattr(module(garments, rank, 2), name)()) for rank in range(2)]
        assert not set(parts[0]) & set(parts[1])
        assert set(parts[0]) | set(parts[1]) == set(images_of(getattr(module(garments), name)()))
        assert len(parts[0]) + len(parts[1]) == count
    train = [images_of(module(garments, rank, 2).train_dataloader()) for rank in range(2)]
    assert [len(part) for part in train] == [12, 12]
    alone = images_of(module(garments).train_dataloader())
    assert sorted(train[0] + train[1]) == sorted(alone)
    # The k-th batches of both are the k-th double batch of one.
    assert sorted(train[0][:4] + train[1][:4]) == sorted(alone[:8])


def test_too_large_a_batch_is_refused(garments: Path) -> None:
    with pytest.raises(UsageError, match="batch_size 25 is more than the 24 training images"):
        AugmentedData(recipes.load(recipe(batch_size=25)), garments)
