"""What techniques on the loss share: logits, targets, and what a forward leaves for its loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers.effect import Effect, Site


class PerForward(Effect):
    """Keeps something of each forward for the loss on its output, which may come late."""

    def __init__(self, who: str, sites: Iterable[Site]) -> None:
        super().__init__(tuple(sites))
        self.who = who
        self.kept: tuple[tuple[Any, Any], ...] = ()

    def keep(self, output: Any, value: Any) -> None:
        """Keeps a value with a forward's output."""
        # Two: a forward may go without a loss, and another technique may call the model twice.
        self.kept = (*self.kept[-1:], (output, value))

    def of(self, output: Any) -> Any:
        """Returns what was kept of the forward that gave this output.

        Raises:
            UsageError: It is not known which one did.
        """
        found = [value for own, value in self.kept if _is_same(own, output)]
        if found:
            return found[-1]
        if len(self.kept) != 1:  # of one alone it is, even if converted on the way
            why = ", with what the model returned: this is of none of the last" if self.kept else ""
            raise UsageError(f"{self.who}: call loss once after each forward in training{why}")
        return self.kept[0][1]

    def penalty(self, output: Any, target: Any) -> Tensor | None:
        places = [i for i, (own, _) in enumerate(self.kept) if _is_same(own, output)]
        self.kept = self.kept[places[-1] + 1 :] if places else ()
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": ()}  # autograd's tensors cannot be copied


def _is_same(own: Any, output: Any) -> bool:
    if own is output or not (isinstance(own, Tensor) and isinstance(output, Tensor)):
        return own is output
    # A distributed model hands out an alias of the tensor.
    return own.untyped_storage()._cdata == output.untyped_storage()._cdata


def ignored_class(whole: nn.Module, who: str) -> int:
    """Returns the class that does not count in a wrapper's criterion.

    Raises:
        UsageError: The criterion is known to be another than the cross-entropy of logits.
    """
    criterion: Any = whole.criterion
    other = isinstance(criterion, nn.modules.loss._Loss)
    other = other and not isinstance(criterion, nn.CrossEntropyLoss)
    name = type(criterion).__name__
    if getattr(criterion, "__module__", "") == F.__name__ and criterion is not F.cross_entropy:
        other, name = True, criterion.__name__
    if other:
        raise UsageError(f"{who} is for the cross-entropy of logits, the criterion is {name}")
    return int(getattr(criterion, "ignore_index", -100))


def logits_of(output: Any, who: str) -> Tensor:
    """Returns the output as logits (n, K, ...) of two classes at least."""
    if isinstance(output, Tensor) and output.ndim >= 2 and output.is_floating_point():
        if output.shape[1] != 1:
            return output
        raise UsageError(f"{who} needs logits of classes, the model's output has one column")
    what = f"floats {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise UsageError(f"{who} needs logits (n, K, ...), the model's output is {what}")


def target_of(target: Any, who: str) -> Tensor:
    """Returns the target, which must be a tensor."""
    if isinstance(target, Tensor):
        return target
    raise UsageError(f"{who} needs the target as one tensor, it is {type(target).__name__}")


def log_softmax(output: Any, who: str) -> Tensor:
    """Returns log softmax of logits, in float32 at least."""
    return F.log_softmax(widened(logits_of(output, who)), dim=1)


def widened(x: Tensor) -> Tensor:
    """Returns a tensor in float32, or as it is in float64."""
    return x if x.element_size() == 8 else x.float()


def mean(each: Tensor, target: Any, ignored: int, who: str) -> Tensor:
    """Returns the mean over the targets that are not to be ignored."""
    if target_of(target, who).is_floating_point():
        return each.mean()
    known = target != ignored
    return each.where(known, 0.0).sum() / known.sum()
