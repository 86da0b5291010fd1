"""What docs/evidence.md holds: networks, how they are trained, and the rows tried on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SEEDS, SIZE = 5, 1000
_PLACES = ("on", "tie")
SHIFT = {"random_crop": {"size": 28, "padding": 2}}
FLIP_SHIFT = ["horizontal_flip", SHIFT]


@dataclass(frozen=True)
class Row:
    """A technique beside the baseline.

    Args:
        name: What the table calls it.
        regularize: Items beside the baseline's.
        sample: Ops on each image.
        batch: Ops on the batch.
        decay: Whether the baseline's weight decay stays.
        longer: How many times as many steps as the others.
    """

    name: str
    regularize: Sequence[Any] = ()
    sample: Sequence[Any] = ()
    batch: Sequence[Any] = ()
    decay: bool = True
    longer: int = 1


@dataclass(frozen=True)
class Net:
    """A network, how it is trained, and what is tried on it.

    Args:
        model: Its name.
        train: Settings of its recipes.
        steps: Of each run.
        decays: Strengths of weight decay that the baseline is chosen among.
        rates: Learning rates that it is chosen among.
        rows: The techniques.
        name: Of its section, where that is not the model's.
        sample: Ops of all rows, before their own.
        images: What it trains on: "fashion_mnist", 1,000 of it; "garments", the 5,000 that the
            generator is fitted to; "clothing10", all of its training images at 32 pixels.
        fitted: Whether a policy and an augmentation network are learned from these images.
        tuning: Steps of the runs by which the baseline is tuned; as many as of others if 0.
        settings: Learning rates and weight decays that the rows are chosen among, by the first of
            them in as many steps as they have; those of the baseline if there are none.
        seeds: Of each row, where the command does not say.
    """

    model: str
    train: Mapping[str, Any]
    steps: int
    decays: Sequence[float]
    rates: Sequence[float]
    rows: Sequence[Row] = field(default_factory=tuple)
    name: str = ""
    sample: Sequence[Any] = ()
    images: str = "fashion_mnist"
    fitted: bool = False
    tuning: int = 0
    settings: Sequence[tuple[float, float]] = ()
    seeds: int = SEEDS

    @property
    def called(self) -> str:
        """The section's name."""
        return self.name or self.model


def said(name: str, parameters: Mapping[str, Any]) -> str:
    """Words an item."""
    words = ", ".join(f"{key} {value}" for key, value in parameters.items() if key not in _PLACES)
    return f"{name}: {words}" if words else name


def one(name: str, **parameters: Any) -> Row:
    """Returns the row of one regularizer."""
    return Row(said(name, parameters), [{name: parameters} if parameters else name])


def shown(row: Row) -> str:
    """Words a row with the sites that it names."""
    items = [
        values for item in row.regularize if isinstance(item, dict) for values in item.values()
    ]
    places = [values[key] for values in items for key in _PLACES if key in values]
    words = (f"`{each if isinstance(each, str) else ' = '.join(each[0])}`" for each in places)
    return ", on ".join([row.name, *words])


def op(name: str, **parameters: Any) -> Row:
    """Returns the row of one op on each image."""
    said = ", ".join(f"{key} {value}" for key, value in parameters.items())
    return Row(
        f"{name}: {said}" if said else name, sample=[{name: parameters} if parameters else name]
    )


def mix(name: str, **parameters: Any) -> Row:
    """Returns the row of one op on the batch."""
    return Row(said(name, parameters), batch=[{name: parameters}])


AUGMENTATIONS = (
    op("horizontal_flip"),
    Row("horizontal_flip and random_crop: padding 2", sample=FLIP_SHIFT),
    op("cutout", size=0.4),
    op("rand_augment", num_ops=2, magnitude=15),
    op("trivial_augment"),
    mix("mixup", alpha=0.2),
    mix("cutmix", alpha=1.0, p=0.5),
)
WIDE = Net(
    "wrn_10_1",
    {"optimizer": "sgd", "batch_size": 64},
    1000,
    (0.0, 5e-3, 2e-2, 5e-2),
    (0.05, 0.1, 0.2),
    (
        Row("no weight_decay", decay=False),
        *AUGMENTATIONS,
        Row("l2 for weight_decay", [{"l2": {"strength": 2e-3}}], decay=False),
        one("l1", strength=1e-4),
        one("elastic_net", strength=1e-4),
        one("group_lasso", strength=1e-4),
        one("orthogonality", strength=1e-3),
        one("label_smoothing", epsilon=0.1),
        one("confidence_penalty", beta=0.1),
        one("isda", strength=0.5),
        one("manifold_mixup", alpha=0.2),
        one("dropout", p=0.2),
        Row("dropout: p 0.2, scale at_test", [{"dropout": {"p": 0.2, "scale": "at_test"}}]),
        Row(
            "r_drop: alpha 1, with dropout 0.2",
            [{"dropout": {"p": 0.2}}, {"r_drop": {"alpha": 1.0}}],
        ),
        one("gaussian_dropout", p=0.2),
        one("spatial_dropout", on="layer3", p=0.1),
        one("standout", on="fc"),
        one("dropblock", on="layer[23]", p=0.1, block_size=3),
        one("stochastic_depth", p=0.1),
        one("shake_drop", p=0.2),
        one("drop_connect", p=0.2),
        one("share", tie=[["layer1.0.conv1.weight", "layer1.0.conv2.weight"]]),
        one("soft_share", tie=[["layer1.0.conv1.weight", "layer1.0.conv2.weight"]]),
        one("batch_norm", on="layer*.0.shortcut"),
        one("ghost_batch_norm", size=16),
        one("freeze_batch_norm", after=800),
        one("spectral_norm", on="fc"),
        one("early_stopping", patience=10),
        one("ema", decay=0.99),
        one("swa", start=750, unit="steps"),
        one("sam", rho=0.05),
        one("gradient_clipping", limit=1.0),
        one("gradient_noise", eta=0.01),
        Row(
            "stack: flip and shift, rand_augment, label_smoothing 0.1, dropout 0.2",
            ["label_smoothing", {"dropout": {"p": 0.2}}],
            [*FLIP_SHIFT, {"rand_augment": {"num_ops": 2, "magnitude": 15}}],
        ),
        Row(
            "stack: flip and shift, cutout, label_smoothing 0.1, ema 0.99",
            ["label_smoothing", {"ema": {"decay": 0.99}}],
            [*FLIP_SHIFT, {"cutout": {"size": 0.4, "p": 0.5}}],
        ),
    ),
)
TRANSFORMER = Net(
    "vit_small",
    {"optimizer": "adamw", "batch_size": 64},
    1000,
    (0.0, 0.05, 0.2),
    (1e-3, 2e-3),
    (
        one("attention_dropout", p=0.1),
        one("stochastic_depth", p=0.1),
        one("share"),
        one("dropout", p=0.1),
        one("standout", on="encoder.layers.*.linear1"),
    ),
)
READER = Net(
    "row_lstm",
    {"optimizer": "adamw", "batch_size": 64},
    1000,
    (0.0, 0.05, 0.2),
    (1e-3, 3e-3),
    (
        one("variational_dropout", p=0.2),
        one("weight_drop", p=0.3),
        one("embedding_dropout", p=0.1),
        one("dropout", p=0.2),
    ),
)
GAN = "GAN"  # stands for the generator's file, and PROBE for the classifier fitted beside it
PROBE = "PROBE"
LATELY = {"epochs": [3, 10]}  # of 13: real images alone begin and end the training
LEARNED = Net(
    "wrn_10_1",
    {"optimizer": "sgd", "batch_size": 64},
    1000,
    (2e-2,),
    (0.2,),
    (
        Row("identity: latent_noise, sigma 0", batch=[{"latent_noise": [0, 0]}]),
        Row("twice as many steps", longer=2),
        op("trivial_augment"),
        mix("latent_noise", noise="iid", sigma=[0, 0.25], p=0.5),
        mix("latent_noise", noise="style", sigma=[0, 0.25], p=0.5),
        mix("latent_noise", noise="iid", sigma=[0, 1], p=0.5, probe=PROBE),
        mix("gan_replace", p=0.2, model=GAN),
        mix("gan_replace", p=0.2, weight=0.4, **LATELY, probe=PROBE, model=GAN),
    ),
    "learned",
    FLIP_SHIFT,
    "garments",
)
SIDE = 32
POLICY, META = "POLICY", "META"
"""What stands for the ops of the learned recipe, and for the augmentation network's weights."""
FLIP_CROP = ["horizontal_flip", {"random_crop": {"size": SIDE, "padding": 4}}]
TAUGHT = (
    op("trivial_augment"),
    Row("learned policy", sample=[POLICY]),
    mix("meta", p=0.5, model=META),
)


def upon(name: str, sample: Sequence[Any] = (), batch: Sequence[Any] = (), **fields: Any) -> Row:
    """Returns the row of ops after flip and crop."""
    return Row(f"flip and crop, {name}", sample=[*FLIP_CROP, *sample], batch=batch, **fields)


NARROW = {"optimizer": "sgd", "batch_size": 64, "precision": "bfloat16"}
"""Settings of recipes that are trained in bfloat16."""
CLOTHES = Net(
    "wrn_10_1",
    NARROW,
    3000,
    (5e-3, 2e-2, 5e-2, 0.1),
    (0.1, 0.2, 0.4, 0.8),
    (
        Row("flip and crop: padding 4", sample=FLIP_CROP),
        upon("rand_augment: 2, magnitude 9", [{"rand_augment": {"num_ops": 2, "magnitude": 9}}]),
        upon("trivial_augment", ["trivial_augment"]),
        upon("cutmix: alpha 1.0, p 0.5", batch=[{"cutmix": {"alpha": 1.0, "p": 0.5}}]),
        upon("meta: p 0.5", batch=[{"meta": {"p": 0.5, "model": META}}]),
        upon("learned policy", [POLICY]),
        Row(
            "stack: flip and crop, learned policy, label_smoothing 0.1, ema 0.99",
            [{"label_smoothing": {"epsilon": 0.1}}, {"ema": {"decay": 0.99}}],
            [*FLIP_CROP, POLICY],
        ),
    ),
    "clothing10",
    images="clothing10",
    fitted=True,
    tuning=1000,
    settings=((0.2, 2e-2), (0.4, 2e-2), (0.4, 5e-2)),
)
TAUGHT_1000 = Net(
    "wrn_10_1",
    NARROW,
    1000,
    (2e-2,),
    (0.2,),
    TAUGHT,
    "fashion_1000",
    FLIP_SHIFT,
    fitted=True,
)
LONG = Net(
    "wrn_10_1",
    NARROW,
    8000,
    (2e-2,),
    (0.2,),
    (Row("learned policy", sample=[POLICY]),),
    "clothing10_long",
    FLIP_CROP,
    "clothing10",
    fitted=True,
    seeds=10,
)
NETS = (WIDE, TRANSFORMER, READER, LEARNED, TAUGHT_1000, CLOTHES, LONG)
