"""What `train` leaves: its network read again, with the techniques that act in `eval()`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml
from torch import Tensor, nn

from augpipe import recipe as recipes
from augpipe.errors import AugpipeError, DataError, first_sentence
from augpipe.learned.probe import ACTING
from augpipe.networks.building import build
from augpipe.regularizers.effect import Effect
from augpipe.regularizers.wrapper import Regularized
from augpipe.tensors import read_tensors

_BROKEN = (KeyError, ValueError, TypeError, RuntimeError)


def acting_state(wrapped: Regularized) -> dict[str, Tensor]:
    """Returns the tensors of the techniques that act in `eval()` too, for `load_model`."""
    pairs = zip(wrapped.regularizers, wrapped.effects, strict=True)
    own = [effect for each, effect in pairs if not each.keeps_eval]
    return {
        f"{ACTING}{k}.{name}": value
        for k, effect in enumerate(own)
        for name, value in effect.state_dict().items()
    }


def _take(wrapped: Regularized, state: Mapping[str, Tensor], steps: int) -> None:
    for k, effect in enumerate(wrapped.effects):
        assert isinstance(effect, Effect)
        start = f"{ACTING}{k}."
        effect.load_state_dict(
            {name[len(start) :]: each for name, each in state.items() if name.startswith(start)}
        )
        effect.tick(steps)


def load_model(path: str | Path) -> nn.Module:
    """Returns a network that `train` made, with its weights, in `eval()`.

    It is the network whose accuracy was reported: techniques that act in `eval()` too, such as
    `batch_norm` or `spectral_norm`, are on it, and it is an `augpipe.Regularized` then.
    Its class names are `model.classes`.

    Raises:
        DataError: The file is no safetensors file of `train`'s; pickles are refused.
    """
    path = Path(path)
    tensors, about = read_tensors(path)
    try:
        classes = json.loads(about["classes"])
        model = build(about["model"], len(classes), int(about["channels"]))
        acting = {name: tensors.pop(name) for name in [*tensors] if name.startswith(ACTING)}
        model.load_state_dict(tensors)
        recipe = recipes.load(yaml.safe_load(about["recipe"]))
        own = [each for each in recipe.regularize if not each.keeps_eval]
        if own:
            model = Regularized(model, own)
            _take(model, acting, int(json.loads(about["result"])["steps"]))
    except (*_BROKEN, AugpipeError, yaml.YAMLError) as error:
        raise DataError(path, f"is not a model of augpipe train: {first_sentence(error)}") from None
    model.classes = classes
    return model.eval()
