"""A LightningModule of one's own, with augpipe's data and regularizers.

python examples/lightning_module.py samples/garments --epochs 10

Needs the extra: pip install 'augpipe[train]'.
"""

from __future__ import annotations

import argparse
from typing import Any

import pytorch_lightning as pl
import torch

import augpipe
from augpipe import recipe
from augpipe.losses import accuracy
from augpipe.networks.building import build
from augpipe.training.callback import Regularize
from augpipe.training.checkpoint import SafeCheckpoints
from augpipe.training.data import AugmentedData

RECIPE = recipe.load(
    {
        "version": 1,
        "seed": 7,
        "sample": [{"random_crop": {"size": 28, "padding": 2}}, "horizontal_flip"],
        "batch": [{"cutmix": {"alpha": 1.0, "p": 0.5}}, {"normalize": "half"}],
        "regularize": [
            {"dropblock": {"on": "layer[23]", "p": 0.05, "block_size": 3}},
            {"label_smoothing": 0.05},
            {"ema": {"decay": 0.9, "warmup": True}},
            {"early_stopping": {"monitor": "val_loss", "patience": 5}},
        ],
        "train": {"batch_size": 32},
    }
)


class Mine(pl.LightningModule):
    """Any module: the network is wrapped, and `loss` and `param_groups` are the wrapper's."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = augpipe.regularize(build("wrn_10_1", classes), RECIPE)

    def training_step(self, batch: Any) -> torch.Tensor:
        """Returns the loss with what the techniques make of it."""
        x, y = batch
        return self.net.loss(self.net(x), y)

    def validation_step(self, batch: Any) -> None:
        """Measures, by the averaged weights: `Regularize` has put them in."""
        x, y = batch
        output = self.net(x)
        self.log("val_loss", self.net.loss(output, y), prog_bar=True, sync_dist=True)
        self.log("val_acc", accuracy(output, y), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns the optimizer over the wrapper's groups."""
        return torch.optim.AdamW(self.net.param_groups(), lr=3e-3)


def main(folder: str, epochs: int, **options: Any) -> float:
    """Trains; returns the accuracy on the images held out, with the best epoch's weights."""
    pl.seed_everything(7, verbose=False)
    data = AugmentedData(RECIPE, folder)
    module = Mine(len(data.splits.classes))
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[Regularize()],
        plugins=[SafeCheckpoints()],  # checkpoints as safetensors
        use_distributed_sampler=False,  # AugmentedData divides the images itself
        log_every_n_steps=5,
        **{"default_root_dir": "runs/lightning", **options},
    )
    trainer.fit(module, data)
    (measured,) = trainer.validate(module, data)
    return measured["val_acc"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=10)
    main(**vars(parser.parse_args()))
