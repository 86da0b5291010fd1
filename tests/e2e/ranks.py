"""One process of a distributed training: python ranks.py RANK WORLD FOLDER IMAGES.

It trains on its share of the images, as `pipe.loader` gives it where nothing is said of ranks, and
writes to FOLDER/RANK.json what it saw, epoch by epoch and batch by batch, and its weights.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import augpipe

RECIPE = {"version": 1, "seed": 3, "sample": [{"resize": [28, 28]}, "to_float"]}
CASES: dict[str, dict[str, Any]] = {
    "all": {"drop_last": False, "workers": 2},
    "drop_last": {"drop_last": True, "workers": 0},
}


def train(images: Path, options: dict[str, Any]) -> dict[str, Any]:
    loader = augpipe.load(RECIPE).loader(images, batch_size=4, **options)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28 * 3, 3))
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.01)
    outer = DistributedDataParallel(model) if dist.is_initialized() else model
    epochs = []
    for _ in range(2):
        seen = []
        for batch, labels in loader:
            model.zero_grad()
            torch.nn.functional.cross_entropy(outer(batch), labels).backward()
            with torch.no_grad():  # torch.optim takes seconds to import
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad
            digests = [hashlib.sha256(each.numpy().tobytes()).hexdigest() for each in batch]
            seen.append(list(zip(digests, labels.tolist(), strict=True)))
        epochs.append(seen)
    weights = torch.cat([each.detach().flatten() for each in model.parameters()])
    return {"epochs": epochs, "length": len(loader), "weights": weights.sum().item()}


def main(rank: int, world: int, folder: Path, images: Path) -> None:
    torch.set_num_threads(1)
    store = (folder / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    found = {name: train(images, options) for name, options in CASES.items()}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
