"""Hugging Face's Trainer, with augpipe's loader and regularizers.

python examples/huggingface_trainer.py samples/garments --epochs 20

Needs: pip install transformers accelerate.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from transformers import (
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

import augpipe
from augpipe.losses import accuracy
from augpipe.training.data import hold_out

RECIPE = {
    "version": 1,
    "seed": 7,
    "sample": [{"random_crop": {"size": 28, "padding": 2}}, "horizontal_flip"],
    "batch": [{"mixup": {"alpha": 0.2}}, {"normalize": "half"}],
    "regularize": [
        {"stochastic_depth": 0.1},
        {"label_smoothing": 0.05},
        {"weight_decay": 0.05},
        {"gradient_clipping": 1.0},
        {"ema": {"decay": 0.9, "warmup": True}},
        {"early_stopping": {"monitor": "eval_loss", "patience": 5}},
    ],
}
PLAIN = {"version": 1, "sample": [{"normalize": "half"}]}  # evaluation is not augmented


class Batches:
    """augpipe's batches under the names that the model takes."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.dataset = loader, loader.base

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for x, y in self.loader:  # each iteration is the next epoch
            yield {"pixel_values": x, "labels": y}


class Steps(TrainerCallback):
    """Tells the wrapper of each step and of the end."""

    def __init__(self, net: Any) -> None:
        self.net = net

    def on_pre_optimizer_step(self, *args: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Clips, decays, adds noise: between the gradients and the optimizer."""
        self.net.before_step(optimizer)

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Averages; goes on in the schedules."""
        self.net.after_step()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Gives the network the best epoch's weights."""
        self.net.finish()


class Regularizing(Trainer):
    """The Trainer with the wrapper's loss, and judged by the averaged weights."""

    def get_train_dataloader(self) -> Any:
        """Returns augpipe's loader, as it is."""
        return self.train_dataset

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Returns augpipe's loader, as it is."""
        return self.eval_dataset

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Returns the loss with what the techniques make of it; in eval() the plain one."""
        output = model(pixel_values=inputs["pixel_values"])
        loss = self.model.loss(output.logits, inputs["labels"])
        return (loss, output) if return_outputs else loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measures, and ends the epoch."""
        with self.model.averaged():
            metrics = super().evaluate(*args, **kwargs)
        if self.is_in_train and self.model.end_epoch(metrics):
            self.control.should_training_stop = True
        return metrics


def main(folder: str, epochs: int) -> float:
    """Trains a tiny ViT; returns the accuracy on the images held out."""
    torch.random.manual_seed(7)
    pipe, plain = augpipe.load(RECIPE), augpipe.load(PLAIN)
    images = pipe.loader(folder).base
    kept, held = hold_out(images.targets, 0.2, seed=7)
    train = pipe.loader(folder, indices=kept.tolist(), batch_size=32, drop_last=True)
    test = plain.loader(folder, indices=held.tolist(), batch_size=32, shuffle=False)
    config = ViTConfig(
        image_size=28,
        patch_size=7,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        num_labels=len(images.classes),
    )
    net = augpipe.regularize(ViTForImageClassification(config), RECIPE)
    print(net)
    with tempfile.TemporaryDirectory() as out:
        trainer = Regularizing(
            net,
            TrainingArguments(
                out,
                num_train_epochs=epochs,
                eval_strategy="epoch",
                save_strategy="no",
                report_to="none",
                label_names=["labels"],
                max_grad_norm=0.0,  # the recipe clips
                dataloader_pin_memory=False,
            ),
            train_dataset=Batches(train),
            eval_dataset=Batches(test),
            optimizers=(torch.optim.AdamW(net.param_groups(), lr=3e-3), None),
            compute_metrics=lambda found: {
                "accuracy": float(accuracy(*map(torch.as_tensor, found)))
            },
            callbacks=[Steps(net)],
        )
        trainer.train()
        share = float(trainer.evaluate()["eval_accuracy"])
    print(f"accuracy {share:.3f}")
    return share


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=20)
    main(**vars(parser.parse_args()))
