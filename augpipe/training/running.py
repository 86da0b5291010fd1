"""`train`: from a recipe and a folder to weights, a curve and a figure."""

from __future__ import annotations

import itertools
import json
import logging
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

import augpipe
from augpipe import recipe as recipes
from augpipe.data.claim import claimed
from augpipe.data.encode import write_atomic
from augpipe.errors import AugpipeError, UsageError, first_sentence
from augpipe.networks.building import build
from augpipe.recipe import Recipe
from augpipe.regularizers.wrapper import Regularized
from augpipe.tensors import load_tree, write_tensors
from augpipe.training.callback import Regularize
from augpipe.training.checkpoint import SafeCheckpoints
from augpipe.training.classifier import Classifier
from augpipe.training.curve import draw_curve
from augpipe.training.data import AugmentedData, Splits, open_splits
from augpipe.training.evaluation import seen
from augpipe.training.models import acting_state
from augpipe.training.progress import Clock, History, described
from augpipe.training.results import Result
from augpipe.training.trial import check_fits, try_out
from augpipe.wrapping import placed

_PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "float32": "32-true",
    "bfloat16": "bf16-mixed",
    "float16": "16-mixed",
}
_RESULT = "result.json"
_WEIGHTS = "model.safetensors"
_METRICS = "metrics.csv"
_LOGGERS = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")
_alone = threading.Lock()


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    data: str | Path | Splits,
    out: str | Path | None = None,
    *,
    overrides: Iterable[str] = (),
    workers: int = 2,
    accelerator: str = "auto",
    devices: int | str = "auto",
    strategy: str = "auto",
    progress: bool = False,
    say: Callable[[str], None] | None = None,
) -> Result:
    """Trains the recipe's network on a dataset, with its augmentation and regularizers.

    One at a time: training draws from PyTorch's generator, which a program has one of.

    Validation and test see no augmentation (`evaluation.for_evaluation`). In `out` are then
    recipe.yaml (every value written out), metrics.csv, TensorBoard's events, curve.png,
    checkpoints/last.safetensors and best.safetensors, model.safetensors (the final weights, with
    the model's name and its classes beside) and result.json. The same call goes on where an
    interrupted one stopped, to the same weights to the bit on one device.

    Args:
        recipe: A recipe with or without a `train` section.
        data: A folder of class folders, with or without splits; of IDX files; or `Splits`.
        out: Where to write; nothing is written when left out.
        overrides: Settings such as `train.epochs=5`.
        workers: Of the loaders.
        accelerator: Lightning's: auto, cpu, gpu, ...
        devices: How many, or auto.
        strategy: Lightning's: auto, ddp, fsdp, ...
        progress: Whether to show a bar.
        say: Is told, line by line, what is trained on what.

    Raises:
        RecipeError: The recipe does not hold.
        UsageError: The model, the data, the devices or `out` cannot be used so; or another
            thread trains, or another process in this folder.
        DataError: An image or a checkpoint cannot be read.
        DivergedError: The loss became NaN or infinite; the checkpoints of before are kept.
    """
    source, overrides = recipe, tuple(overrides)
    recipe = _with_rate(recipes.as_recipe(recipe, overrides))
    folder = None if out is None else Path(out)
    if not isinstance(data, Splits):
        data = open_splits(Path(data), recipe.train.validation, recipe.seed)
    _check(recipe, data, strategy)
    about = {"recipe": recipe.dump(defaults=True), "data": data.named}
    with ExitStack() as stack:
        if not _alone.acquire(blocking=False):
            raise UsageError("another thread is training: training takes PyTorch's one generator")
        stack.callback(_alone.release)
        if folder is not None and is_first():
            stack.enter_context(claimed(folder))
            stack.callback(_remove_if_empty, folder)
        if folder is not None and (done := _finished(folder, about)) is not None:
            if say is not None:
                say(f"{folder}: finished already")
            return done
        stack.enter_context(quiet())
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(placed(source, overrides))
        options = {"accelerator": accelerator, "devices": devices, "strategy": strategy}
        return _train(recipe, data, folder, about, workers, progress, say, options)


def _train(
    recipe: Recipe,
    data: Splits,
    folder: Path | None,
    about: Mapping[str, str],
    workers: int,
    progress: bool,
    say: Callable[[str], None] | None,
    options: Mapping[str, Any],
) -> Result:
    torch.manual_seed(recipe.seed)  # noqa: TID251 - the network's weights and its noise
    module, wrapped = prepare(recipe, data, workers)
    clock = Clock(None if progress else say)
    trainer = _trainer(
        recipe,
        folder,
        about,
        clock,
        enable_progress_bar=progress,
        limit_val_batches=1.0 if len(data.validation) else 0,
        **options,
    )
    world = trainer.world_size
    for part in (data.train, data.validation, data.test):
        if part is not None and 0 < len(part) < world:
            raise UsageError(f"{world} devices are more than {len(part)} images: take fewer")
    per_epoch = len(data.train) // (recipe.train.batch_size * world)
    if per_epoch == 0:
        raise UsageError(f"train.batch_size: {len(data.train)} images fill no batch")
    steps = recipe.train.steps or recipe.train.epochs * per_epoch
    # Not by `max_steps`, with which Lightning counts otherwise in a run that goes on.
    trainer.fit_loop.max_epochs = -(-steps // per_epoch)
    classifier = Classifier(wrapped, recipe.train, steps)
    last = None if folder is None else folder / "checkpoints" / "last.safetensors"
    resumed = last is not None and last.exists()
    if say is not None and trainer.is_global_zero:
        say(described(recipe, module, wrapped, trainer, steps))
    if last is not None and resumed:
        done = check_fits(last, classifier, world)
        clock.before = done.seconds
        if say is not None and trainer.is_global_zero:
            say(f"going on after epoch {done.epochs} of {trainer.fit_loop.max_epochs}")
    with _stoppable(trainer, last):
        trainer.fit(classifier, module, ckpt_path=str(last) if resumed else None)
        seconds = clock.seconds
        classifier.measured = "final_train"
        (fitted,) = trainer.test(classifier, module.fitted_dataloader(), verbose=False)
        classifier.measured = last_part = "final_val" if data.test is None else "test"
        (tested,) = trainer.test(classifier, module.test_dataloader(), verbose=False)
    result = Result(
        accuracy=tested[f"{last_part}_acc"],
        loss=tested[f"{last_part}_loss"],
        train_accuracy=fitted["final_train_acc"],
        measured_on="validation" if data.test is None else "test",
        steps=trainer.global_step,
        epochs=trainer.current_epoch,
        seconds=seconds,
        parameters=sum(each.numel() for each in wrapped.model.parameters()),
        train_loss=sum(classifier.losses) / max(len(classifier.losses), 1),
    )
    if folder is not None and trainer.is_global_zero:
        _write(folder, recipe, wrapped, module, result, about)
    return result


def prepare(recipe: Recipe, data: Splits, workers: int = 0) -> tuple[AugmentedData, Regularized]:
    """Returns the data and the network, once it has taken two images, with its regularizers.

    Raises:
        UsageError: There is no such network, or it does not take the images.
        SiteError: A technique finds no site in it.
    """
    module = AugmentedData(recipe, data, workers)
    net = build(recipe.train.model, len(data.classes), data.channels)
    try_out(net, recipe, module)
    net.to(memory_format=torch.channels_last)  # convolutions take two thirds of the time so
    return module, Regularized(net, recipe.regularize)


def _with_rate(recipe: Recipe) -> Recipe:
    """Writes out the learning rate, whose default goes by the optimizer."""
    rule = recipe.train.model_copy(update={"lr": recipe.train.rate})
    return recipe.model_copy(update={"train": rule})


def _check(recipe: Recipe, data: Splits, strategy: str) -> None:
    """Refuses what would fail late."""
    if "spawn" in strategy:
        raise UsageError(f"strategy {strategy}: what a spawned process learns is lost: take ddp")
    if len(data.test or data.validation) == 0:
        why = "train.validation is 0"
        if recipe.train.validation:
            why = "each class has one image, so that none can be held out"
        raise UsageError(f"there is nothing to measure on: no test split, and {why}")
    for each in recipe.regularize:
        if (each.watches or "").startswith("val_") and not len(data.validation):
            raise UsageError(
                f"{each.name()} watches {each.watches}, and there are no validation images: "
                "set train.validation"
            )


def is_first() -> bool:
    """Tells whether this is the only process of a training, or the first of several."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _finished(folder: Path, about: Mapping[str, str]) -> Result | None:
    """Returns the result of a run that is done; refuses a folder of another run."""
    done, last = folder / _RESULT, folder / "checkpoints" / "last.safetensors"
    result, kept = Result.read(done) if done.exists() else (None, None)
    if kept is None and last.exists():
        kept = load_tree(last)[1]
    other = next((name for name in about if kept and kept.get(name) != about[name]), None)
    if kept and other:
        raise UsageError(
            f"{folder}: holds a run of another {other}: name another folder "
            f"({_unlike(kept.get(other, ''), about[other])})"
        )
    return result


def _unlike(there: str, here: str) -> str:
    """Names the first lines in which two texts differ."""
    lines = [text.splitlines() for text in (there, here)]
    pairs = itertools.zip_longest(*lines, fillvalue="nothing")
    first, own = next(pair for pair in pairs if pair[0] != pair[1])
    first, own = (textwrap.shorten(each, 60, placeholder=" ...") for each in (first, own))
    return f"there: {first}; here: {own}"


def _trainer(
    recipe: Recipe,
    folder: Path | None,
    about: Mapping[str, str],
    clock: Clock,
    **options: Any,
) -> pl.Trainer:
    rule = recipe.train
    callbacks: list[pl.Callback] = [Regularize(), clock]
    loggers: list[Any] = []
    plugins: list[Any] = []
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "recipe.yaml", about["recipe"].encode())
        callbacks.append(History(folder / _METRICS))
        loggers = [
            CSVLogger(folder, name="", version=""),
        ]
        if find_spec("tensorboard"):
            loggers.append(TensorBoardLogger(folder, name="", version="tensorboard"))
        if options["limit_val_batches"]:
            callbacks.append(_Checkpoint(folder / "checkpoints", "best", "val_acc"))
        callbacks.append(_Checkpoint(folder / "checkpoints", "last"))
        clock.kept = {**about, "augpipe": augpipe.__version__}
        plugins.append(SafeCheckpoints(clock.kept))
    try:
        trainer = pl.Trainer(
            precision=_PRECISIONS[rule.precision],
            max_epochs=rule.epochs,
            logger=loggers,
            callbacks=callbacks,
            plugins=plugins,
            log_every_n_steps=10,
            num_sanity_val_steps=0,
            enable_checkpointing=folder is not None,
            enable_model_summary=False,
            use_distributed_sampler=False,
            **options,
        )
    except (MisconfigurationException, ImportError, ValueError, RuntimeError, TypeError) as error:
        # Lightning's words: no such accelerator, too many devices, a precision that needs a GPU.
        raise UsageError(f"training cannot be set up so: {first_sentence(error)}") from None
    for plugin in plugins:
        plugin.metadata["devices"] = str(trainer.world_size)
    if rule.precision == "float16" and trainer.strategy.root_device.type == "cpu":
        # Lightning would take bfloat16, and say so in a warning.
        raise UsageError("training cannot be set up so: float16 needs a GPU, bfloat16 does not")
    return trainer


class _Checkpoint(ModelCheckpoint):
    """The state after the last epoch, or after the one with the highest of a metric.

    Two of them, since Lightning's `save_last` saves only where the metric rose.
    """

    FILE_EXTENSION = ".safetensors"

    def __init__(self, folder: Path, name: str, monitor: str | None = None) -> None:
        super().__init__(
            dirpath=folder,
            filename=name,
            monitor=monitor,
            mode="max",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )


def _write(
    folder: Path,
    recipe: Recipe,
    wrapped: Regularized,
    module: AugmentedData,
    result: Result,
    about: Mapping[str, str],
) -> None:
    """Writes the final weights, the curve and the result; that last, for it says all is done."""
    data = module.splits
    header = {
        "format": "augpipe model 1",
        "augpipe": augpipe.__version__,
        "model": recipe.train.model,
        "classes": json.dumps(list(data.classes)),
        "channels": str(data.channels),
        "recipe": about["recipe"],
        "sees": json.dumps(seen(recipe, module.size)),
        "result": json.dumps(asdict(result)),
    }
    state = {**wrapped.state_dict(), **acting_state(wrapped)}
    tensors = {name: each.detach().cpu().clone() for name, each in state.items()}
    write_tensors(folder / _WEIGHTS, tensors, header)
    draw_curve(folder / _METRICS, folder / "curve.png", str(result))
    result.keep(folder / _RESULT, about)


@contextmanager
def _stoppable(trainer: pl.Trainer, last: Path | None) -> Iterator[None]:
    """Has Ctrl-C be a KeyboardInterrupt again, of which Lightning makes an exit."""
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        stopped = KeyboardInterrupt()
        if last is not None and last.exists():
            stopped.add_note("the same call goes on from the last whole epoch")
        raise stopped from None
    except RuntimeError as error:
        if trainer.world_size > 1 and "closed by peer" in str(error):
            raise AugpipeError("another of the processes stopped: see above") from None
        raise


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Lightning's notices from the terminal; its errors still come."""
    logs = [logging.getLogger(name) for name in _LOGGERS]
    levels = [each.level for each in logs]
    for each in logs:
        each.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torchmetrics")
        known = "lr_scheduler.step|isinstance.treespec|worker processes in total"
        warnings.filterwarnings("ignore", message=f".*({known}).*")
        try:
            yield
        finally:
            for each, level in zip(logs, levels, strict=True):
                each.setLevel(level)
