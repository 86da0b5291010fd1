"""Loss and accuracy for targets that mixing has made rows of shares.

Both take classes as well, so that training on mixed targets and validation on plain ones need
one call. Values are looked at on the CPU only: on another device that would wait for it.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from augpipe.errors import DataError, UsageError

_IGNORED = -100  # torch's default ignore_index
_SLACK = 1e-3  # how far rows may sum beyond 1; 8 times as far in half precision

Reduction = Literal["mean", "sum", "none"]


def soft_cross_entropy(
    logits: Tensor,
    target: Tensor,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Returns the cross-entropy of logits with classes or with mixed rows.

    loss_i = -sum_k weight_k t_ik log softmax(logits_i)_k, t = (1 - s) target + s / K with s the
    label smoothing: the mixed row is smoothed, so that smoothing and mixing compose in either
    order. Computed in float32 for narrower logits. Equal to torch's
    `F.cross_entropy`, also in this: the mean of rows is over n, that of classes over the sum of
    their weights, and class -100 is ignored.

    A multi-label target is not one distribution over classes and is refused; mixed rows fit
    `F.binary_cross_entropy_with_logits` as they are.

    Args:
        logits: (n, K, ...), floats.
        target: (n, ...) int64 classes, or (n, K, ...) floats in 0..1 that sum to 1 over K, or to
            less where an image weighs less (`gan_replace`).
        label_smoothing: 0 to 1 (Szegedy et al., arXiv 1512.00567); it weighs all images alike.
        weight: (K,), of each class.
        reduction: "mean" or "sum" over the batch, or "none".

    Returns:
        A scalar, or (n, ...) with "none".

    Raises:
        UsageError: `label_smoothing`, `weight` or `reduction` is not one of these.
        DataError: The shapes do not fit; on the CPU, classes or rows are out of range.
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise UsageError(f"label_smoothing must be from 0 to 1; got {label_smoothing}")
    if reduction not in ("mean", "sum", "none"):
        raise UsageError(f"reduction must be one of mean, sum, none; got {reduction!r}")
    _check(logits, target)
    if weight is not None and weight.shape != logits.shape[1:2]:
        have, classes = tuple(weight.shape), logits.shape[1]
        raise UsageError(f"weight has shape {have} for {classes} classes: expected ({classes},)")
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    goal = target.to(wide.dtype) if target.is_floating_point() else target.long()
    weight = None if weight is None else weight.to(wide.dtype)
    return F.cross_entropy(wide, goal, weight, reduction=reduction, label_smoothing=label_smoothing)


def accuracy(logits: Tensor, target: Tensor, topk: int = 1) -> Tensor:
    """Returns the share of hits among the `topk` highest logits, 0 to 1.

    Of classes, the usual top-k accuracy. Of mixed rows, the mean over the batch of
    sum_k target_k [k is among the highest]: lam hit_a + (1 - lam) hit_b, the accuracy
    expected when a row's class is drawn by its shares; a row that sums to less than 1 weighs
    less. The argmax of the target would count a prediction of 0.51 / 0.49 as all right or all
    wrong; this is linear in the target, and equal to the accuracy on the unmixed labels in the
    mean. At top 1 it cannot exceed the largest share of a row. Class -100 counts as no sample.

    Args:
        logits: (n, K, ...), floats.
        target: (n, ...) int64 classes, or (n, K, ...) floats in 0..1 that sum to 1 over K, or to
            less where an image weighs less.
        topk: From 1 to K.

    Returns:
        A float32 scalar on the logits' device; NaN without samples.

    Raises:
        UsageError: `topk` is out of range.
        DataError: The shapes do not fit; on the CPU, classes or rows are out of range.
    """
    _check(logits, target)
    classes = logits.shape[1]
    if not 1 <= topk <= classes:
        raise UsageError(f"topk must be from 1 to {classes}, the number of classes; got {topk}")
    highest = logits.detach().topk(topk, dim=1).indices
    if target.is_floating_point():
        shares = target.detach().float()
        return shares.gather(1, highest).sum() / shares.sum()
    hits = (highest == target[:, None]).any(dim=1)
    return hits.sum() / (target != _IGNORED).sum()


def _check(logits: Tensor, target: Tensor) -> None:
    """Refuses what does not fit together."""
    if logits.ndim < 2 or not logits.is_floating_point():
        raise DataError(
            "logits", f"expected floats (n, K, ...), got {logits.dtype} of {tuple(logits.shape)}"
        )
    classes, rows = logits.shape[1], target.is_floating_point()
    whole = not rows and target.dtype != torch.bool and not target.is_complex()
    plain = (len(logits), *logits.shape[2:])
    if not (rows and target.shape == logits.shape) and not (whole and target.shape == plain):
        raise DataError(
            "target",
            f"expected classes {plain} or float rows {tuple(logits.shape)} for logits "
            f"{tuple(logits.shape)}, got {target.dtype} of {tuple(target.shape)}",
        )
    if target.device.type != "cpu" or not target.numel():
        return
    if whole:
        known = target.long()
        known = known[known != _IGNORED]
        if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < classes:
            low, high = int(known.min()), int(known.max())
            raise DataError("target", f"classes are 0 to {classes - 1}, here are {low} to {high}")
        return
    least, most = (float(each) for each in target.detach().aminmax())
    if not (least >= -_SLACK and most <= 1.0 + _SLACK):
        raise DataError("target", f"rows hold shares from 0 to 1, here are {least:g} to {most:g}")
    sums = target.detach().float().sum(dim=1)
    slack = _SLACK if target.dtype in (torch.float32, torch.float64) else 8 * _SLACK
    if not bool((sums <= 1.0 + slack).all()):
        raise DataError(
            "target",
            f"rows sum to 1, or to the image's weight below it; one sums to {float(sums.max()):g}: "
            "for several labels an image use "
            "torch.nn.functional.binary_cross_entropy_with_logits",
        )
