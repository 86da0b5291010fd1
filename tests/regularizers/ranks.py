"""One process of a distributed training: python ranks.py RANK WORLD FOLDER.

It trains with each stack on its share of each batch, and writes its weights to FOLDER/RANK.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import augpipe
from tests.regularizers.nets import CLASSES, MLP

STACKS = {
    "exact": [
        {"l2": 1e-2},
        {"label_smoothing": 0.1},
        {"weight_decay": 0.1},
        {"gradient_clipping": 0.5},
        {"ema": 0.5},
        {"early_stopping": {"patience": 5}},
    ],
    "sam": [{"sam": 0.1}, {"l1": 1e-3}],
    "noise": [{"dropout": {"on": "Linear", "p": 0.3}}, {"gradient_noise": 0.1}, {"ema": 0.5}],
}
STEPS, BATCH = 6, 8


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(BATCH, 6, generator=generator)
    return x, torch.randint(CLASSES, (BATCH,), generator=generator)


def train(rank: int, world: int, stack: str) -> dict[str, Tensor]:
    wrapped = augpipe.regularize(MLP.build(), STACKS[stack])
    outer = DistributedDataParallel(wrapped) if world > 1 else wrapped
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1, momentum=0.9)
    torch.manual_seed(rank)  # each draws its own noise
    for number in range(STEPS):
        x, y = batch(number)
        x, y = x[rank::world], y[rank::world]

        def closure(x: Tensor = x, y: Tensor = y) -> None:
            optimizer.zero_grad()
            wrapped.loss(outer(x), y).backward()

        closure()
        wrapped.before_step(optimizer, closure)
        optimizer.step()
        wrapped.after_step()
        if number == STEPS // 2:
            wrapped.end_epoch({"val_loss": 1.0})
    with wrapped.averaged():
        out = {f"averaged.{name}": each.clone() for name, each in wrapped.state_dict().items()}
    out |= {f"own.{name}": each.clone() for name, each in wrapped.state_dict().items()}
    wrapped.end_epoch({"val_loss": 2.0})
    wrapped.finish()
    return out | {f"kept.{name}": each for name, each in outer.state_dict().items()}


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = (folder / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    torch.save({stack: train(rank, world, stack) for stack in STACKS}, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
