"""`augpipe fit gan`: from folders of classes to the generator of the GAN's ops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from augpipe.data.claim import claimed
from augpipe.errors import DivergedError, UsageError
from augpipe.fitting.adversarial import AdversarialFit, Preset
from augpipe.fitting.devices import check_device, has_bfloat16
from augpipe.fitting.judging import GanReport, Judge
from augpipe.fitting.labelled import check_apart, open_labelled
from augpipe.learned.weights import save_net

PRESETS = {
    "cpu": Preset(32, 128, 64, 448_000),
    "gpu": Preset(64, 256, 256, 2_000_000),
}


def fit_gan(
    data: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    side: int | None = None,
    preset: str = "cpu",
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float = 1e-3,
    seed: int = 0,
    precision: str | None = None,
    device: str | None = None,
    tick: Callable[[int, int, Tensor], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> GanReport:
    """Fits a class-conditional GAN to images and writes the generator's weights.

    In a folder beside `out` (gan-fit for gan.safetensors) are: samples/ (a grid of the classes each
    500 steps), state.safetensors, from which the same call goes on to the same weights, real/ and
    generated/, the classifiers that judge (`real/model.safetensors` fits an op's `probe`).

    It stops early where generated images lie nearer to training images than 0.8 times what
    unseen real ones do, and keeps the weights of the last look at which they did not.

    Args:
        data: Class folders, in splits or not, or IDX files. A tenth is held out if there is no
            validation split.
        out: The safetensors file to write.
        size: How many training images, in the classes' proportions; all when left out.
        side: Of the square images are shrunk and cut to, in pixels; their own when left out.
        preset: cpu or gpu, see `PRESETS`.
        steps: Optimizer steps; the preset's when left out.
        batch_size: Real images in a step, likewise.
        lr: The highest learning rate.
        seed: Of first weights, batches, noise and augmentation.
        precision: float32 or bfloat16; what is fast on the device when left out.
        device: Where to compute; cpu or cuda by the preset when left out.
        tick: Is told of each step: its number, how many there are, and the discriminator's loss, a
            tensor, which to read may wait for the device.
        say: Is told, line by line, what goes on.

    Raises:
        UsageError: The data or the settings cannot be used, or the kept state is of another fit.
        DataError: An image cannot be read, or a class has one image.
        DivergedError: A loss became NaN or infinite: `out` has the last good weights.
    """
    if preset not in PRESETS:
        raise UsageError(f"preset {preset}: one of {', '.join(PRESETS)}")
    if precision not in (None, "float32", "bfloat16"):
        raise UsageError(f"precision {precision}: float32 or bfloat16")
    sizes = PRESETS[preset]
    batch = sizes.batch_size if batch_size is None else batch_size
    count = max(1, sizes.images // max(batch, 1)) if steps is None else steps
    if count < 1 or batch < 1 or not lr > 0:
        raise UsageError(f"steps {count}, batch_size {batch}, lr {lr}: must be above 0")
    device = device or ("cuda" if preset == "gpu" else "cpu")
    check_device(device)
    precision = precision or ("bfloat16" if has_bfloat16(device) else "float32")
    say = say or (lambda line: None)
    out = Path(out)
    folder = out.with_name(f"{out.stem}-fit")
    check_apart(Path(data), folder)
    divided = open_labelled(Path(data), size, side, seed)
    if batch > len(divided.train):
        raise UsageError(f"batch_size {batch} is more than the {len(divided.train)} images")
    with claimed(folder):
        fit = AdversarialFit(divided, sizes, count, batch, lr, seed, precision, device, folder)
        fit.go_on()
        kind = "grey" if fit.channels == 1 else "RGB"
        say(
            f"{len(divided.train)} {kind} images of {fit.side} × {fit.side}, "
            f"{len(divided.train.classes)} classes; {count} steps of {batch} in {precision}"
        )
        say("a classifier of the real images, to judge by")
        accelerator = "gpu" if device.startswith("cuda") else "cpu"
        judge = Judge(divided, folder, seed, fit.named, accelerator)
        if fit.step:
            say(f"going on after step {fit.step} of {count}")
        about = {"classes": list(divided.train.classes), "fitted": fit.about}
        try:
            fit.run(judge, tick)
        except DivergedError as error:
            if not fit.best_step:
                raise
            save_net(out, "gan", fit.best, {**about, "step": fit.best_step})
            raise DivergedError(f"{error}; {out} has the weights of step {fit.best_step}") from None
        if fit.stopped:
            say(f"stopped: {fit.stopped}")
        save_net(out, "gan", fit.best, about)  # there, whatever becomes of the report
        say("a classifier of generated images")
        report = judge.report(
            fit.make,
            steps=fit.step,
            seconds=fit.seconds,
            parameters=sum(each.numel() for each in fit.generator.parameters()),
            stopped=fit.stopped,
        )
        told = {key: each for key, each in asdict(report).items() if key != "classes"}
        save_net(out, "gan", fit.best, {**about, "report": told})
    return report
