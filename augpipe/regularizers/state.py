"""How a wrapped model is saved and loaded: under the names that the plain model has."""

from __future__ import annotations

from typing import Any

from torch import nn

from augpipe.regularizers.effect import Effect

_OURS = ("effects", "criterion")  # what the wrapper has beside the model; it is in `run_state`


def keep_names(wrapped: nn.Module) -> None:
    """Has a wrapper save and load under the plain model's names.

    Args:
        wrapped: It has the model under the name `model`, techniques under `effects`.
    """
    wrapped.register_state_dict_pre_hook(_whole)  # type: ignore[no-untyped-call]
    wrapped.register_state_dict_post_hook(_as_the_model)  # type: ignore[no-untyped-call]
    wrapped.register_load_state_dict_pre_hook(_from_the_model)  # type: ignore[no-untyped-call]
    wrapped.register_load_state_dict_post_hook(_loaded)  # type: ignore[no-untyped-call]


def own(wrapped: nn.Module) -> dict[str, nn.Module]:
    """Returns the modules that a wrapper has beside the model."""
    return {name: each for name, each in wrapped.named_children() if name in _OURS}


def _effects(wrapped: nn.Module) -> list[Effect]:
    return [each for each in wrapped.effects if isinstance(each, Effect)]  # type: ignore[union-attr]


def restore(wrapped: nn.Module) -> None:
    """Puts back what a forward that was broken off has left, the last put on first."""
    for effect in reversed(_effects(wrapped)):
        effect.restore()


def _whole(wrapped: nn.Module, prefix: str, keep_vars: bool) -> None:
    restore(wrapped)


def _as_the_model(
    wrapped: nn.Module, state: dict[str, Any], prefix: str, local_metadata: Any
) -> None:
    """Gives a state the keys of the plain model."""
    inside = f"{prefix}model."
    for key in [each for each in state if each.startswith(prefix) and not each.startswith(inside)]:
        del state[key]  # first: the model may have a part of the same name
    for key in [each for each in state if each.startswith(inside)]:
        state[prefix + key[len(inside) :]] = state.pop(key)


def _from_the_model(wrapped: nn.Module, state: dict[str, Any], prefix: str, *ignored: Any) -> None:
    """Takes a state with the keys of the plain model."""
    wrapped.__dict__["loading"] = prefix
    for key in [each for each in state if each.startswith(prefix)]:
        state[f"{prefix}model.{key[len(prefix) :]}"] = state.pop(key)
    for name, module in own(wrapped).items():
        for key, value in module.state_dict().items():
            state[f"{prefix}{name}.{key}"] = value


def _loaded(wrapped: nn.Module, problems: Any) -> None:
    """Names what did not fit as the plain model does, and tells of the new weights."""
    prefix = wrapped.__dict__.pop("loading", "")
    inside = f"{prefix}model."
    for keys in problems:  # missing, unexpected
        keys[:] = [
            prefix + each.removeprefix(inside) if each.startswith(inside) else each for each in keys
        ]
    for effect in _effects(wrapped):
        effect.settle()
