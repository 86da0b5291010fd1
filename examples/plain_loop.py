"""A plain PyTorch loop with augpipe's loader and regularizers.

python examples/plain_loop.py samples/garments --epochs 20
"""

from __future__ import annotations

import argparse

import torch

import augpipe
from augpipe.losses import accuracy
from augpipe.networks.building import build
from augpipe.training.data import hold_out

RECIPE = {
    "version": 1,
    "seed": 7,
    "sample": [{"random_crop": {"size": 28, "padding": 2}}, "horizontal_flip"],
    "batch": [{"mixup": {"alpha": 0.2}}, {"normalize": "half"}],
    "regularize": [
        {"label_smoothing": 0.05},
        {"weight_decay": 5e-4},
        {"sam": 0.05},
        {"ema": {"decay": 0.9, "warmup": True}},
        {"early_stopping": {"monitor": "val_loss", "patience": 5}},
    ],
}
PLAIN = {"version": 1, "sample": [{"normalize": "half"}]}  # validation is not augmented


def main(folder: str, epochs: int) -> float:
    """Trains on four fifths of a folder of class folders; returns the accuracy on the rest."""
    torch.random.manual_seed(7)
    pipe, plain = augpipe.load(RECIPE), augpipe.load(PLAIN)
    images = pipe.loader(folder).base
    kept, held = hold_out(images.targets, 0.2, seed=7)
    train = pipe.loader(folder, indices=kept.tolist(), batch_size=32, drop_last=True)
    validation = plain.loader(folder, indices=held.tolist(), batch_size=32, shuffle=False)

    net = augpipe.regularize(build("wrn_10_1", len(images.classes)), RECIPE)
    print(net)
    optimizer = torch.optim.SGD(net.param_groups(), lr=0.05, momentum=0.9)

    for epoch in range(epochs):
        net.train()
        for x, y in train:

            def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> None:
                optimizer.zero_grad()
                net.loss(net(x), y).backward()

            closure()
            net.before_step(optimizer, closure)  # the closure again is for sam alone
            optimizer.step()
            net.after_step()
        net.eval()
        with torch.no_grad(), net.averaged():  # judged by the moving average
            found = [(net(x), y) for x, y in validation]
        output, target = (torch.cat(each) for each in zip(*found, strict=True))
        measured = {"val_loss": float(net.loss(output, target))}
        print(f"epoch {epoch}: {measured}, accuracy {accuracy(output, target):.3f}")
        if net.end_epoch(measured):
            break

    net.train()
    net.finish(x for x, _ in train)  # the best epoch's weights
    model = net.remove().eval()  # the plain network
    with torch.no_grad():
        found = [(model(x), y) for x, y in validation]
    output, target = (torch.cat(each) for each in zip(*found, strict=True))
    share = float(accuracy(output, target))
    print(f"accuracy {share:.3f}")
    return share


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--epochs", type=int, default=20)
    main(**vars(parser.parse_args()))
