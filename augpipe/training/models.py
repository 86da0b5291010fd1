"""Networks by name: the small ones here, torchvision's and timm's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import yaml
from torch import Tensor, nn

from augpipe import recipe as recipes
from augpipe.errors import AugpipeError, DataError, UsageError, did_you_mean, first_sentence
from augpipe.regularizers.effect import Effect
from augpipe.regularizers.wrapper import Regularized
from augpipe.settings import SMALL_NETS, known_networks
from augpipe.tensors import read_tensors
from augpipe.training.nets import RowReader, SmallTransformer, WideResNet

_ACTING = "effects."  # what the tensors of techniques are called in a file
_BROKEN = (KeyError, ValueError, TypeError, RuntimeError)


def build(name: str, classes: int, channels: int = 3) -> nn.Module:
    """Builds a network with fresh weights.

    Args:
        name: One of the small nets (wrn_16_1), `torchvision.X` or `timm.X`.
        classes: How many classes it tells apart.
        channels: Of the images: 1 for grey, 3 for RGB.

    Raises:
        UsageError: There is no such network, or it cannot be built so.
    """
    library, dot, inner = name.partition(".")
    match library:
        case "torchvision" if dot:
            return _torchvision(inner, classes, channels)
        case "timm" if dot:
            return _timm(inner, classes, channels)
        case "vit_small":
            return SmallTransformer(classes, channels)
        case "row_lstm":
            return RowReader(classes)
        case _ if name in SMALL_NETS:
            depth, width = map(int, name.split("_")[1:])
            return WideResNet(depth, width, classes, channels)
    raise UsageError(f"there is no model '{name}' here ({known_networks(name)})")


def acting_state(wrapped: Regularized) -> dict[str, Tensor]:
    """Returns the tensors of the techniques that act in `eval()` too, for `load_model`."""
    pairs = zip(wrapped.regularizers, wrapped.effects, strict=True)
    own = [effect for each, effect in pairs if not each.keeps_eval]
    return {
        f"{_ACTING}{k}.{name}": value
        for k, effect in enumerate(own)
        for name, value in effect.state_dict().items()
    }


def _take(wrapped: Regularized, state: Mapping[str, Tensor], steps: int) -> None:
    for k, effect in enumerate(wrapped.effects):
        assert isinstance(effect, Effect)
        start = f"{_ACTING}{k}."
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
        acting = {name: tensors.pop(name) for name in [*tensors] if name.startswith(_ACTING)}
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


def _torchvision(name: str, classes: int, channels: int) -> nn.Module:
    import torchvision
    from torchvision.models import get_model, list_models

    known = list_models(module=torchvision.models)
    if name not in known:
        hint = did_you_mean(name, known)
        raise UsageError(f"torchvision has no classifier '{name}'" + (f" ({hint})" if hint else ""))
    if channels != 3:
        raise UsageError(
            f"torchvision.{name} takes RGB images, these have one channel: take a small net "
            "or one of timm's, such as timm.resnet18"
        )
    more = {"aux_logits": False, "init_weights": True} if name in _AUXILIARY else {}
    return get_model(name, weights=None, num_classes=classes, **more)


_AUXILIARY = ("googlenet", "inception_v3")  # whose training output is a tuple else


def _timm(name: str, classes: int, channels: int) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UsageError("timm models need timm: pip install 'augpipe[train]'") from None
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        raise UsageError(f"timm has no model '{name}'" + (f" ({hint})" if hint else ""))
    try:
        return timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"timm.{name} cannot be built: {first_sentence(error)}") from None
