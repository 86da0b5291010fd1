"""What docs/evidence.md says above its tables."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.techniques import SEEDS, SIZE

HELD_OUT = {
    "fashion_mnist": f"200 images held out of the {SIZE}",
    "clothing10": "its 341 validation images",
}
WORDS: dict[str, Sequence[str]] = {}
WORDS["garments"] = (
    "Learned augmenters on wrn_10_1, 5,000 images, upon flip and shift (`horizontal_flip`, "
    "`random_crop` with padding 2), which all rows have. The generator is that of "
    "docs/learned.md, fitted to the very 5,000 images; its fitting is not in the seconds. "
    "PROBE is the classifier that was trained beside it on the same images. Controls: an op"
    " that does nothing; a policy that learns nothing; and the baseline with twice as"
    " many steps, which takes about as long as the row of latent_noise up to 0.25. Learning "
    "rate and weight decay are those of wrn_10_1 above.",
    "",
)
WORDS["clothing10"] = (
    "clothing10: 3,068 colour photos of ten unbalanced classes, shrunk and cut to 32 × 32; "
    "accuracy is on its 372 test images, so that one image is 0.27 points. The baseline was tuned "
    "in 1,000 steps, which are enough for it to know all training images by heart. The policy and "
    "the network of `meta` were fitted to the same training images (`augpipe fit policy`, `augpipe "
    "fit meta`, --side 32; what that took is in docs/learned.md and not in the seconds), of "
    "the strength that images held out chose. All seeds have the same images.",
    "",
)
WORDS["wrn_10_1"] = (
    "Beyond the grid that is named next, looked at afterwards: lr 0.4 has 84.3 on the held-out "
    "images, where 0.2 has 85.2 (weight_decay 0.02, bfloat16).",
    "",
)
WORDS["fashion_1000"] = (
    "A policy and an augmentation network on Fashion-MNIST. All rows have flip and shift "
    "(`horizontal_flip`, `random_crop` with padding 2), the baseline nothing else. Both were "
    "fitted to 1,000 training images, nearly all others than the rows train on (`augpipe fit "
    "policy`, `augpipe fit meta`, --size 1000; META is the network; not in the seconds), and 6,000 "
    "more were held out to choose the policy's strength by (in trainings at lr 0.1 and "
    "weight_decay 0.005, which the fits have left since): they know of more labels than the "
    "other rows, and of no test image. Learning rate and weight decay are those of wrn_10_1 above.",
    "",
)


WORDS["clothing10_long"] = (
    "One longer run: the images and the network of clothing10, at the learning rate and weight "
    "decay of its rows. All rows have flip and crop, the baseline nothing else: differences are "
    "to it. The policy was learned from the same images (`augpipe fit policy`, --side 32); what "
    "that took is in docs/learned.md and not in the seconds. Ten seeds: five were looked at "
    "first (+1.94 ± 2.43), then five more were run; an interval of 97.5 %, for two looks, is "
    "± 1.41.",
    "",
)


def introduction(intervals: int) -> list[str]:
    """Returns the lines above the sections.

    Args:
        intervals: How many are shown.
    """
    return [
        "# Evidence",
        "",
        f"Does it help? Fashion-MNIST with {SIZE} training images, where nothing else is said: "
        f"each technique alone, added to a baseline that was tuned first, {SEEDS} seeds. With "
        "one seed all recipes get the same images, the same first weights and the same order, "
        "so the differences are paired; ± is half of Student's 95 % interval over the seeds. "
        "Where the interval holds 0 the table says so: no evidence. Accuracy is on the test "
        "images, with the final weights; *training* is that on the training images without "
        "augmentation, *gap* the difference. Settings are chosen for small networks and short "
        "runs, often milder than the papers', and are not tuned. The stack with rand_augment "
        "was added when the results of the other rows were there. A row says what that setting "
        "does here, not what the technique can do at its best.",
        "",
        f"{intervals} intervals of 95 % are looked at: {0.05 * intervals:.0f} or so exclude 0 by"
        " chance alone.",
        "Seconds are the clock's, of runs side by side on a machine that had other work too.",
        "",
        "    # Fashion-MNIST's IDX files, clothing10's folder",
        "    python -m benchmarks.evidence --data DIR --clothing DIR",
        "",
    ]
