"""Networks by name: the small ones here, torchvision's and timm's."""

from __future__ import annotations

from torch import nn

from augpipe.errors import UsageError, did_you_mean, first_sentence
from augpipe.networks.small import RowReader, SmallTransformer, WideResNet
from augpipe.settings import SMALL_NETS, known_networks


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
