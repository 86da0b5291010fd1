"""Other libraries' transforms as ops: arguments, seeds, targets, errors."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import yaml

import augpipe
from augpipe.errors import DataError, RecipeError
from augpipe.foreign import Adapter, adapter_of, facts, libraries
from augpipe.foreign.kornia import Kornia
from augpipe.foreign.seeding import Seeded
from augpipe.foreign.signature import signature
from augpipe.ops import find
from augpipe.ops.foreign import NotOffered, all_names, foreign_op
from augpipe.recipe import load
from augpipe.report.catalogue import describe_op, example_item, list_ops
from augpipe.schema import schema
from augpipe.targets import Batch, Boxes, Keypoints, Points, Sample, finish, outline
from augpipe.types import Array

NAMES = all_names()
BATCHED = [name for name in NAMES if not name.startswith("albumentations.")]
SEEDS = np.array([5, 2**63 + 1, 77], np.uint64)


def item(name: str) -> Any:
    cls = find(name)
    assert cls is not None
    return example_item(cls)


def recipe(section: str, *items: Any) -> augpipe.recipe.Recipe:
    return load({"version": 1, section: list(items)})


def op(name: str, **arguments: Any) -> Any:
    cls = find(name)
    assert cls is not None
    (made,) = getattr(recipe(cls.sections[0], {name: arguments}), cls.sections[0])
    return made


def adapter(name: str, **arguments: Any) -> Adapter:
    return op(name, **arguments)._adapter


def photo(channels: int = 3, height: int = 32, width: int = 40, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def refused(section: str, *items: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe(section, *items)
    return str(caught.value)


# ---------------------------------------------------------------- names and arguments


@pytest.mark.parametrize(
    ("section", "given", "words"),
    [
        ("sample", "albumentations.MotionBlurr", "has no transform 'MotionBlurr' (did you mean"),
        ("sample", "albumentation.Blur", "did you mean 'albumentations.Blur'"),
        ("sample", "albumentations.OneOf", "a composition: use one_of"),
        ("sample", "albumentations.Lambda", "takes a function, which a recipe cannot hold"),
        ("batch", "kornia.RandomMixUpV2", "mixes images and labels"),
        ("batch", "albumentations.Blur", "only in 'sample:'"),
        ("sample", "kornia.RandomInvert", "only in 'batch:'"),
        ("sample", "os.system", "there is no op 'os.system'"),
        ("sample", "torchvision.", "there is no op 'torchvision.'"),
        ("sample", "torchvision.models.resnet", "has no transform 'models.resnet'"),
        ("sample", {"albumentations.Blur": {"blurlimit": 3}}, "(did you mean 'blur_limit'?)"),
        ("sample", {"albumentations.Blur": {"blur_limit": 4}}, "Blur.blur_limit: albumentations"),
        ("sample", {"albumentations.Blur": {"blur_limit": "wide"}}, "a list of 2 integers, or"),
        ("sample", {"albumentations.Blur": {"strict": True}}, "no parameter 'strict'"),
        ("sample", {"albumentations.PixelDropout": {"dropout_prob": 3}}, "less than or equal to 1"),
        ("sample", {"albumentations.Rotate": {"interpolation": "bilinear"}}, "one of nearest"),
        ("sample", "torchvision.RandomAffine", "RandomAffine needs it: a number"),
        ("sample", {"torchvision.RandomAffine": {"degrees": [1]}}, "should be a sequence of len"),
        ("batch", {"kornia.RandomAffine": {"degrees": 9, "shear": [400, 500]}}, "out of bounds"),
        ("batch", {"kornia.RandomInvert": {"keepdim": True}}, "no parameter 'keepdim'"),
        ("batch", {"kornia.RandomInvert": {"p": 2}}, "a number from 0 to 1; got 2"),
    ],
)
def test_what_cannot_be_is_said_at_check_time(section: str, given: Any, words: str) -> None:
    assert words in refused(section, given)


def test_a_refused_argument_has_its_place(tmp_path: Any) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("version: 1\nsample:\n  - albumentations.Blur:\n      blur_limit: 4\n")
    with pytest.raises(RecipeError, match=r"a.yaml:4:19: sample\[0\]"):
        load(path)


@pytest.mark.parametrize("name", NAMES)
def test_every_transform_is_an_op(name: str) -> None:
    cls = find(name)
    assert cls is not None and cls.name() == name
    section = cls.sections[0]
    made = recipe(section, item(name))
    assert load(yaml.safe_load(made.dump())) == made
    whole = load(yaml.safe_load(made.dump(defaults=True)))
    assert whole == made
    (one,) = getattr(made, section)
    again = pickle.loads(pickle.dumps(one))
    assert again == one and again._adapter == one._adapter
    text = describe_op(name)
    assert all(f"\n  {parameter}: " in text for parameter in cls.model_fields)


@pytest.mark.parametrize("name", NAMES)
def test_every_bad_value_is_refused_by_name(name: str) -> None:
    cls = find(name)
    assert cls is not None
    section, good = cls.sections[0], item(name)
    fields = good[name] if isinstance(good, dict) else {}
    for parameter, declared in cls.declared().items():
        for bad in declared.bad_values():
            text = refused(section, {name: {**fields, parameter: bad}})
            assert f"{section}[0].{name}.{parameter}: must be " in text


def test_the_schema_takes_every_example_and_no_other_name() -> None:
    validator = jsonschema.Draft202012Validator(schema())
    for name in NAMES:
        cls = find(name)
        assert cls is not None
        document = {"version": 1, cls.sections[0]: [item(name)]}
        assert not list(validator.iter_errors(document)), name
    for bad in ("kornia.Nonesuch", {"kornia.Nonesuch": {}}, {"kornia.RandomInvert": 3}):
        assert list(validator.iter_errors({"version": 1, "batch": [bad]}))


def test_settings_reach_a_name_with_a_point() -> None:
    document = {"version": 1, "sample": [{"albumentations.Blur": {"blur_limit": 5}}]}
    made = load(document, ["sample.0.albumentations.Blur.p=0.25"])
    assert made.sample[0].p == 0.25


def test_a_number_of_cv2_is_its_word() -> None:
    assert op("albumentations.Rotate", border_mode=1) == op(
        "albumentations.Rotate", border_mode="replicate"
    )


def test_a_null_that_is_no_default_is_kept() -> None:
    given = {"min_height": None, "min_width": None, "pad_height_divisor": 8, "pad_width_divisor": 8}
    made = recipe("sample", {"albumentations.PadIfNeeded": given})
    assert yaml.safe_load(made.dump())["sample"] == [{"albumentations.PadIfNeeded": given}]
    assert load(yaml.safe_load(made.dump(defaults=True))) == made


def test_mappings_of_words_are_kept() -> None:
    given = {"interpolation_pair": {"upscale": "linear", "downscale": "area"}}
    made = recipe("sample", {"albumentations.Downscale": given})
    assert yaml.safe_load(made.dump())["sample"] == [{"albumentations.Downscale": given}]
    assert made.sample[0]._adapter.build().interpolation_pair == {"upscale": 1, "downscale": 3}


def test_p_is_the_library_s_default_and_own_p_its_other_meaning() -> None:
    assert op("albumentations.Blur").p == 0.5
    assert op("torchvision.RandomGrayscale").p == 0.1
    assert op("torchvision.RandomResizedCrop", size=8).p == 1.0
    assert op("torchvision.RandomPhotometricDistort", own_p=0.2).p == 1.0
    assert op("torchvision.RandomPhotometricDistort", own_p=0.2)._adapter.build().p == 0.2
    assert op("kornia.RandomInvert", p=0.3)._adapter.build().p == 1.0


def test_another_library_under_the_import_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "version", lambda library: "2.5.1")
    monkeypatch.setattr(libraries, "_distribution", lambda library: "albumentationsx")
    foreign_op.cache_clear()
    signature.cache_clear()
    with pytest.raises(NotOffered, match=r"albumentations 2.0.8; loaded is albumentationsx 2.5.1"):
        foreign_op("albumentations.Blur")


def test_the_list_needs_no_library() -> None:
    code = (
        "from augpipe.report.catalogue import list_ops\nfrom augpipe.schema import schema\n"
        "import sys\ntext = list_ops(100)\n"
        "print(sorted({'torch', 'cv2', 'albumentations', 'kornia', 'torchvision'} & "
        "set(sys.modules)), max(map(len, text.splitlines())))\n"
        "schema()\n"  # torch, for the regularizers
        "assert not {'cv2', 'albumentations', 'kornia'} & set(sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["[]", "100"]
    for library in libraries.LIBRARIES:
        assert "not deterministic: none" in describe_op(library)
        for own in facts().limits[library]:
            assert own in list_ops(100)


# ---------------------------------------------------------------- seeds


def test_torch_draws_from_the_seed_and_nothing_else() -> None:
    def draw() -> list[torch.Tensor]:
        beta = torch.distributions.Beta(2.0, 3.0)
        return [
            *(torch.rand(3), torch.randn(3), torch.randperm(9), torch.randint(0, 99, (3,))),
            *(torch.empty(3).uniform_(), torch.empty(3).normal_(), torch.rand_like(torch.ones(3))),
            *(torch.randint_like(torch.ones(3), 99), torch.bernoulli(torch.full((9,), 0.5))),
            *(beta.sample((3,)), torch.multinomial(torch.ones(9), 3), torch.normal(0.0, 1.0, (3,))),
        ]

    state = torch.get_rng_state()
    with Seeded(2**63 + 5):
        first = draw()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    with Seeded(2**63 + 5):
        second = draw()
    with Seeded(6):
        other = draw()
    for a, b, c in zip(first, second, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_a_seed_is_the_library_s_own() -> None:
    """The libraries' own seeding gives the same pixels, so nothing else was drawn or changed."""
    import albumentations
    import kornia
    from torchvision.transforms import v2

    image, seed = photo(), 1234
    chw = torch.from_numpy(image.transpose(2, 0, 1).copy())
    theirs = albumentations.RandomResizedCrop(size=(24, 28), p=1.0)
    theirs.set_random_seed(seed)
    ours = adapter("albumentations.RandomResizedCrop", size=[24, 28])
    out = ours.on_sample(Sample(image), seed).image
    assert np.array_equal(out, theirs(image=image)["image"])

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    expected = v2.RandomPhotometricDistort(p=0.5)(chw)
    ours = adapter("torchvision.RandomPhotometricDistort")
    out = ours.on_sample(Sample(image), seed).image
    assert np.array_equal(out, expected.numpy().transpose(1, 2, 0))

    torch.manual_seed(seed)
    levels = kornia.augmentation.RandomPlasmaShadow(p=1.0)(chw[None] / 255.0) * 255.0
    ours = adapter("kornia.RandomPlasmaShadow")
    batch = ours.on_batch(Batch(chw[None].float()), np.array([0]), SEEDS[:1] * 0 + seed)
    assert torch.equal(batch.images, levels)
    torch.set_rng_state(state)


@pytest.mark.parametrize("name", ["albumentations.Affine", "torchvision.RandomAffine"])
def test_threads_do_not_disturb_one_another(name: str) -> None:
    key = "rotate" if name.startswith("alb") else "degrees"
    pipe = augpipe.Pipeline(recipe("sample", {name: {key: [-40, 40], "p": 0.7}}))
    images = [photo(seed=k) for k in range(48)]
    alone = [pipe(image, index=k) for k, image in enumerate(images)]

    def do(k: int) -> Array:
        torch.rand(3), random.random()
        return pipe(images[k], index=k)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # between a draw and its use, too
    try:
        with ThreadPoolExecutor(6) as pool:
            together = list(pool.map(do, reversed(range(48))))
    finally:
        sys.setswitchinterval(interval)
    assert all(map(np.array_equal, reversed(alone), together))
    assert len({image.tobytes() for image in alone}) == 48


def seeded(image: Array, section: str, *items: Any, seed: int = 1, epoch: int = 0) -> Array:
    """What a recipe makes of an image, as that of index 4."""
    pipe = augpipe.load({"version": 1, "seed": seed, section: list(items)})
    if section == "sample":
        return np.asarray(pipe(image, index=4, epoch=epoch))
    images = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    return pipe.batch(images, index=[4], epoch=epoch)[0].numpy().transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("section", "item"),
    [
        ("sample", {"albumentations.GaussNoise": {"p": 1}}),
        ("sample", {"torchvision.ColorJitter": {"brightness": 0.9, "contrast": 0.9, "hue": 0.5}}),
        ("batch", {"kornia.RandomGaussianNoise": {"p": 1}}),
        ("batch", {"torchvision.ColorJitter": {"brightness": 0.9, "contrast": 0.9, "hue": 0.5}}),
    ],
    ids=["albumentations", "torchvision", "kornia", "torchvision in batch"],
)
def test_the_recipe_s_seed_the_epoch_and_the_place_reach_the_library(
    section: str, item: Any
) -> None:
    first = seeded(photo(), section, item)
    assert np.array_equal(first, seeded(photo(), section, item))
    assert not np.array_equal(first, seeded(photo(), section, item, seed=2))
    assert not np.array_equal(first, seeded(photo(), section, item, epoch=1))
    # Drawn alike, the second would do to the first's image what the first would do to it.
    twice = seeded(photo(), section, item, item)
    assert not np.array_equal(twice, seeded(first, section, item))


class Photos(torch.utils.data.Dataset):
    """Six photos; their own indices as labels."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, k: int) -> tuple[Array, int]:
        return photo(seed=k), k


@pytest.mark.parametrize("name", ["albumentations.ElasticTransform", "torchvision.AugMix"])
def test_workers_change_nothing(name: str) -> None:
    pipe = augpipe.Pipeline(recipe("sample", {name: {"p": 0.8}}))
    runs = []
    for workers in (0, 2):
        data = pipe.dataset(Photos())
        data.set_epoch(3)
        loader = torch.utils.data.DataLoader(data, batch_size=1, num_workers=workers)
        runs.append([image.numpy() for image, _ in loader])
    assert all(map(np.array_equal, *runs))
    assert len({image.tobytes() for image in runs[0]}) == 6


def test_each_thread_has_an_object_of_its_own() -> None:
    ours, both = adapter("albumentations.Affine"), threading.Barrier(2)

    def take(_: int) -> Any:
        both.wait(10)
        return ours.instance()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(take, range(2))
    assert first is not second and ours.instance() is ours.instance()


def test_an_image_large_enough_for_gravel_shows_its_seed() -> None:
    gravel = adapter("albumentations.RandomGravel", number_of_patches=5)
    image = photo(3, 200, 240)
    outs = [gravel.on_sample(Sample(image), seed).image for seed in (1, 2, 1)]
    assert np.array_equal(outs[0], outs[2]) and not np.array_equal(outs[0], outs[1])


# ---------------------------------------------------------------- batches


def batch(count: int = 3, floats: bool = False, targets: bool = True) -> Batch:
    images = torch.stack([torch.from_numpy(photo(seed=k).transpose(2, 0, 1)) for k in range(count)])
    masks = {"mask": (images[:, :1] > 128).to(torch.uint8)}
    boxes = [Boxes.of(outline(np.array([[9.0, 7, 22, 19]])), k) for k in range(count)]
    marks = [
        Keypoints(Points.of(np.array([[15.5, 12.5]])), np.array([[k, 0]])) for k in range(count)
    ]
    images = images.float() if floats else images
    if not targets:
        return Batch(images)
    return Batch(images, None, masks, {}, boxes, marks)


def row(whole: Batch, k: int) -> Batch:
    return Batch(
        whole.images[k : k + 1],
        None,
        {name: each[k : k + 1] for name, each in whole.masks.items()},
        {},
        None if whole.boxes is None else whole.boxes[k : k + 1],
        None if whole.points is None else whole.points[k : k + 1],
    )


def shown(name: str, floats: bool) -> Batch:
    """Returns a batch with the targets that a transform takes."""
    out, limits = batch(floats=floats), facts()
    if limits.limited(name, "no masks"):
        out.masks = {}
    if limits.limited(name, "no boxes"):
        out.boxes = None
    if limits.limited(name, "no keypoints"):
        out.points = None
    return out


VARIES = {"torchvision.RandomIoUCrop", "torchvision.RandomResize", "torchvision.RandomShortestSize"}
VARIES |= {"torchvision.RandomZoomOut", "torchvision.ScaleJitter"}


@pytest.mark.parametrize("name", [name for name in BATCHED if name not in VARIES])
@pytest.mark.parametrize("floats", [False, True], ids=["uint8", "floats"])
def test_a_row_of_a_batch_is_the_image_alone(name: str, floats: bool) -> None:
    if floats and facts().limited(name, "uint8 only"):
        pytest.skip("takes uint8 only")
    good = item(name)
    given = good[name] if isinstance(good, dict) else {}
    ours = adapter(name, **{key: value for key, value in given.items() if key != "p"})
    whole = shown(name, floats)
    before = whole.images.clone()
    out = ours.on_batch(whole, np.arange(3), SEEDS)
    assert torch.equal(whole.images, before) and out.images.dtype == before.dtype
    for k in range(3):
        alone = ours.on_batch(row(whole, k), np.arange(1), SEEDS[k : k + 1])
        # A batched convolution or product sums in another order: 1e-4 of the range, one level
        # where that crosses a half.
        apart = (out.images[k].float() - alone.images[0].float()).abs().max()
        assert apart <= (0.0255 if floats else 1.0)
        for mask, other in zip(out.masks.values(), alone.masks.values(), strict=True):
            assert torch.equal(mask[k], other[0])
        for many, one in ((out.boxes, alone.boxes), (out.points, alone.points)):
            if many is not None and one is not None:
                assert _numbers(many[k]) == pytest.approx(_numbers(one[0]), abs=1e-4, nan_ok=True)


def _numbers(value: Boxes | Keypoints) -> Array:
    return value.outlines.whole if isinstance(value, Boxes) else value.points.at


def test_rows_that_do_not_act_stay_as_they_are() -> None:
    ours, whole = adapter("kornia.RandomHorizontalFlip"), batch()
    out = ours.on_batch(whole, np.array([1]), SEEDS[:1])
    assert torch.equal(out.images[[0, 2]], whole.images[[0, 2]])
    assert torch.equal(out.images[1], whole.images[1].flip(-1))
    assert torch.equal(out.masks["mask"][1], whole.masks["mask"][1].flip(-1))
    assert out.boxes is not None and whole.boxes is not None and out.points is not None
    assert out.boxes[0] is whole.boxes[0]
    hull, _ = finish(out.boxes[1].outlines, (32, 40), 0, 0)
    assert hull == pytest.approx(np.array([[18.0, 7, 31, 19]]))
    assert out.points[1].points.at == pytest.approx(np.array([[24.5, 12.5]]))


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("torchvision.")])
def test_torchvision_does_the_same_in_both_sections(name: str) -> None:
    if facts().limited(name, "needs boxes"):
        pytest.skip("needs boxes")
    good = item(name)
    given = good[name] if isinstance(good, dict) else {}
    ours = adapter(name, **{key: value for key, value in given.items() if key != "p"})
    image = photo()
    alone = ours.on_sample(Sample(image), 99).image
    chw = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    batched = ours.on_batch(Batch(chw), np.array([0]), np.array([99], np.uint64)).images[0]
    assert np.array_equal(alone, batched.numpy().transpose(1, 2, 0))


def test_parameters_that_are_shared_are_not_stacked() -> None:
    """A wrong fact shows: Kornia takes one order of steps for a whole batch."""
    ours = adapter("kornia.ColorJiggle", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2)
    assert isinstance(ours, Kornia) and ours.limited("row by row")
    whole = batch(floats=True)
    out = ours.on_batch(whole, np.arange(3), SEEDS)
    alone = ours.on_batch(row(whole, 2), np.arange(1), SEEDS[2:])
    assert torch.equal(out.images[2:], alone.images)


# ---------------------------------------------------------------- images and targets


@pytest.mark.parametrize(
    "name",
    ["albumentations.HorizontalFlip", "torchvision.RandomHorizontalFlip"],
)
def test_a_flip_is_our_flip_for_every_target(name: str) -> None:
    sample = Sample(
        photo(),
        [photo(1), photo(2).astype(np.uint16), photo(1).astype(np.float64)],
        [Points.of(np.array([[3.5, 4.5], [np.nan, np.nan], [39.5, 0.5]]))],
        [outline(np.array([[1.0, 2, 9, 12], [4, 4, 4, 9], [-5, 3, 6, 20]]))],
    )
    sample.points[0] = replace(sample.points[0], seen=np.array([True, True, False]))
    out = adapter(name).on_sample(sample, 0)
    pipe = augpipe.Pipeline(recipe("sample", {"horizontal_flip": {"p": 1}}))
    (expected,) = pipe.run([sample], np.array([0]))
    assert np.array_equal(out.image, expected.image)
    for mask, other in zip(out.masks, expected.masks, strict=True):
        assert mask.dtype == other.dtype and np.array_equal(mask, other)
    for rule in (0.0, 0.5):
        hull, kept = finish(out.boxes[0], (32, 40), 1.0, rule)
        other_hull, other_kept = finish(expected.boxes[0], (32, 40), 1.0, rule)
        assert kept.tolist() == other_kept.tolist()
        assert hull == pytest.approx(other_hull, abs=1e-9)
    assert np.allclose(out.points[0].at, expected.points[0].at, equal_nan=True)
    assert out.points[0].seen.tolist() == [True, False, False]


@pytest.mark.parametrize("library", ["albumentations", "torchvision"])
def test_a_crop_leaves_boxes_unseen_and_in_their_rows(library: str) -> None:
    size = {"height": 16, "width": 20} if library == "albumentations" else {"size": [16, 20]}
    sample = Sample(photo(), boxes=[outline(np.array([[0.0, 0, 5, 5], [12, 10, 24, 20]]))])
    sample.points.append(Points.of(np.array([[2.5, 2.5], [15.5, 12.5]])))
    out = adapter(f"{library}.CenterCrop", **size).on_sample(sample, 0)
    assert out.image.shape == (16, 20, 3)
    hull, kept = finish(out.boxes[0], (16, 20), 1.0, 0.0)
    assert kept.tolist() == [1] and hull == pytest.approx(np.array([[2.0, 2, 14, 12]]))
    assert out.points[0].seen.tolist() == [False, True]
    assert out.points[0].at[1] == pytest.approx([5.5, 4.5])


def test_what_was_cut_away_before_still_counts() -> None:
    before = outline(np.array([[-10.0, 4, 10, 14]]))
    sample = Sample(photo(), boxes=[before])
    pipe = augpipe.Pipeline(recipe("sample", {"horizontal_flip": {"p": 1}}))
    (sample,) = pipe.run([sample], np.array([0]))
    out = adapter("albumentations.VerticalFlip").on_sample(sample, 0)
    assert len(finish(out.boxes[0], (32, 40), 1.0, 0.49)[1]) == 1
    assert len(finish(out.boxes[0], (32, 40), 1.0, 0.51)[1]) == 0


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("albumentations.Pad", {"padding": 2, "fill": 200}),
        ("torchvision.Pad", {"padding": 2, "fill": 200}),
    ],
)
def test_fills_are_grey_levels_for_floats_too(name: str, given: dict[str, Any]) -> None:
    mask = np.ones((32, 40, 1), np.uint8)
    for dtype in (np.uint8, np.float32):
        sample = Sample(photo().astype(dtype), [mask])
        out = adapter(name, **given).on_sample(sample, 0)
        assert out.image.dtype == dtype and out.image[0, 0] == pytest.approx([200.0] * 3)
        assert np.allclose(out.image[2:-2, 2:-2], sample.image, atol=1e-4)
        assert out.masks[0][0, 0] == 0 and out.masks[0].sum() == mask.sum()


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("albumentations.InvertImg", False),
        ("albumentations.HorizontalFlip", True),
        ("torchvision.RandomInvert", False),
        ("torchvision.RandomHorizontalFlip", True),
    ],
)
def test_alpha_travels_with_the_geometry_and_is_not_coloured(name: str, moves: bool) -> None:
    image = photo(4)
    out = adapter(name).on_sample(Sample(image), 0).image
    alpha = image[:, ::-1, 3] if moves else image[:, :, 3]
    assert np.array_equal(out[:, :, 3], alpha)
    assert not np.array_equal(out[:, :, :3], image[:, :, :3])


@pytest.mark.parametrize("name", ["kornia.RandomInvert", "kornia.RandomHorizontalFlip"])
def test_alpha_of_a_batch(name: str) -> None:
    images = torch.from_numpy(photo(4).transpose(2, 0, 1).copy())[None]
    out = adapter(name).on_batch(Batch(images), np.array([0]), SEEDS[:1]).images
    still = name == "kornia.RandomInvert"
    assert torch.equal(out[:, 3], images[:, 3] if still else images[:, 3].flip(-1))
    assert torch.equal(out[:, :3], 255 - images[:, :3] if still else images[:, :3].flip(-1))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("RandomAffine", {"degrees": [45, 45], "padding_mode": "fill", "fill_value": 1.0}),
        ("PadTo", {"size": [40, 50], "pad_value": 1.0}),
        ("RandomCrop", {"size": [38, 46], "padding": 6, "fill": 1.0}),
    ],
)
def test_a_fill_of_kornia_is_the_image_s_alone(name: str, given: dict[str, Any]) -> None:
    """In its own units, 0 to 1; beyond a mask lies class 0."""
    images = torch.full((2, 3, 32, 40), 60, dtype=torch.uint8)
    masks = {"mask": torch.full((2, 1, 32, 40), 7, dtype=torch.uint8)}
    ours = adapter(f"kornia.{name}", **given)
    out = ours.on_batch(Batch(images, masks=masks), np.arange(2), SEEDS[:2])
    level = round(255.0 * next(value for key, value in given.items() if key in FILLS))
    filled, mask = out.images[:, :1] == level, out.masks["mask"]
    assert filled.any() and mask.shape[2:] == out.images.shape[2:]
    assert (mask[filled] == 0).all()
    assert (mask[out.images[:, :1] == 60] == 7).all()


FILLS = ("fill_value", "pad_value", "fill")


def test_grey_images_keep_their_channel() -> None:
    for name in ("albumentations.GaussianBlur", "torchvision.RandomInvert"):
        assert adapter(name).on_sample(Sample(photo(1)), 3).image.shape == (32, 40, 1)


@pytest.mark.parametrize(
    ("name", "sample", "words"),
    [
        ("torchvision.RandAugment", Sample(photo(), [photo(1)]), "takes no masks"),
        ("albumentations.ISONoise", Sample(photo(1)), "needs RGB; the image has 1 channel$"),
        ("albumentations.MaskDropout", Sample(photo()), "needs a mask"),
        ("torchvision.RandomIoUCrop", Sample(photo()), "needs boxes"),
        ("torchvision.JPEG", Sample(photo().astype(np.float32)), "needs a uint8 image"),
        ("kornia.RandomInvert", Sample(photo()), "stands in 'batch:'"),
    ],
)
def test_what_a_transform_cannot_take_is_told_by_its_key(
    name: str, sample: Sample, words: str
) -> None:
    given = {"quality": 50} if name == "torchvision.JPEG" else {}
    with pytest.raises(DataError, match=f"^x#0: .*{words}"):
        adapter(name, **given).on_sample(sample, 1, "x#0")


def test_a_failure_of_the_library_is_told_in_a_line() -> None:
    ours = adapter("albumentations.RandomCrop", height=99, width=99)
    with pytest.raises(DataError, match=r"^albumentations.RandomCrop: failed: CropSizeError: "):
        ours.on_sample(Sample(photo()), 1)


def test_images_that_would_leave_a_batch_with_different_sizes() -> None:
    ours = adapter("torchvision.RandomResize", min_size=8, max_size=30)
    with pytest.raises(DataError, match="different sizes: "):
        ours.on_batch(batch(targets=False), np.arange(3), SEEDS)
    ours = adapter("kornia.CenterCrop", size=[8, 8])
    with pytest.raises(DataError, match="some images of a batch another size: 32 × 40, 8 × 8"):
        ours.on_batch(batch(targets=False), np.array([0, 2]), SEEDS[:2])


def test_a_result_of_another_form_is_refused() -> None:
    ours = adapter("albumentations.ToGray", num_output_channels=1)
    with pytest.raises(DataError, match="makes 1 channels of 3"):
        ours.on_sample(Sample(photo()), 1)


@pytest.mark.parametrize(
    "name",
    ["albumentations.BBoxSafeRandomCrop", "torchvision.RandomIoUCrop", "torchvision.RandAugment"],
)
def test_an_image_without_boxes_may_still_have_a_set_of_them(name: str) -> None:
    nothing = Sample(
        photo(),
        points=[Points.of(np.zeros((0, 2)))],
        boxes=[outline(np.zeros((0, 4)))],
    )
    out = adapter(name).on_sample(nothing, 3)
    assert len(out.boxes[0]) == 0 and len(out.points[0]) == 0


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("kornia.RandomJigsaw", {}),
        ("kornia.Resize", {"size": [8, 10]}),
        ("torchvision.Resize", {"size": [8, 10]}),
    ],
)
def test_a_batch_without_objects(name: str, given: dict[str, Any]) -> None:
    whole = batch()
    whole.masks = {"masks": torch.zeros((3, 0, 32, 40), dtype=torch.uint8)}
    whole.boxes = [Boxes.of(outline(np.zeros((0, 4))), k) for k in range(3)]
    whole.points = None
    if name == "kornia.RandomJigsaw":
        whole.masks = {}
    out = adapter(name, **given).on_batch(whole, np.arange(3), SEEDS)
    assert out.boxes is not None and [len(each.outlines) for each in out.boxes] == [0, 0, 0]
    assert all(each.shape == (3, 0, *out.images.shape[2:]) for each in out.masks.values())


# ---------------------------------------------------------------- in a pipeline


def test_p_gates_and_other_ops_go_on_with_the_new_size() -> None:
    items = [
        {"albumentations.Resize": {"height": 20, "width": 24, "p": 0.5}},
        {"random_crop": {"size": [8, 8]}},
    ]
    pipe = augpipe.Pipeline(recipe("sample", *items))
    assert {pipe(photo(), index=k).shape for k in range(12)} == {(8, 8, 3)}
    pipe = augpipe.Pipeline(recipe("sample", items[0]))
    assert {pipe(photo(), index=k).shape for k in range(12)} == {(20, 24, 3), (32, 40, 3)}


def test_nothing_is_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        items = ["albumentations.ShiftScaleRotate", "torchvision.RandomErasing"]
        pipe = augpipe.Pipeline(recipe("sample", *({name: {"p": 1}} for name in items)))
        pipe({"image": photo(), "mask": photo(1)[:, :, 0]}, index=0)


def test_the_batch_section_runs_them() -> None:
    items = [{"kornia.RandomPlasmaShadow": {"p": 0.5}}, {"torchvision.RandomInvert": {"p": 0.5}}]
    pipe = augpipe.Pipeline(recipe("batch", *items))
    images = batch(8, targets=False).images
    index = list(range(8))
    out = pipe.batch(images, index=index, epoch=1)
    assert out.shape == images.shape and not torch.equal(out, images)
    for k in (0, 5):
        alone = pipe.batch(images[k : k + 1], index=[k], epoch=1)
        assert torch.equal(alone[0], out[k])


def test_adapters_are_compared_by_what_they_do() -> None:
    one, other = adapter_of("kornia.RandomInvert", {}), adapter_of("kornia.RandomInvert", {})
    assert one == other and hash(one) == hash(other) and one != 3
    assert one != adapter_of("kornia.RandomInvert", {"max_val": 0.5})
