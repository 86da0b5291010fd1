"""From what `print(torchvision.transforms.Compose(...))` shows, v1 or v2, to a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from augpipe.importers.args import MISFITS, Args, Item, Unlike, is_number, misfit, tidy
from augpipe.importers.draft import Draft, Verdict, mixes, sequence, with_p
from augpipe.importers.reprs import Call, Reader, Unnamed
from augpipe.importers.timm import layers
from augpipe.importers.timm_reprs import CROPS, SHOWN, is_policy, is_timms, policy
from augpipe.importers.torchvision_ops import NATIVE

_CONTAINERS = ("Compose", "Sequential", "ModuleList")


def import_torchvision(text: str, source: str) -> Draft:
    """Reads a repr.

    Args:
        text: What was printed.
        source: What to call it in places.

    Raises:
        RecipeError: It is not a repr, with the place where that shows.
    """
    root = Reader(text, source).read()
    draft = Draft("torchvision")
    items = _item(root, draft, source)
    # What follows an op that mixes the images of a batch follows it in the batch.
    first = next((k for k, item in enumerate(items) if mixes(item)), len(items))
    draft.sample, draft.batch = items[:first], items[first:]
    lone = [next(iter(item)) for item in items if not mixes(item)]
    drawn = [name for name in dict.fromkeys(lone) if name not in _ALIKE]
    if draft.batch and drawn:
        text = "beside what mixes: drawn for each image, there once for the whole batch"
        draft.say(source, "changed", f"{', '.join(drawn)} {text}")
    return draft


_ALIKE = ("resize", "center_crop", "pad", "gaussian_noise")
"""What is drawn for no image, or for each in a batch too."""


def _item(value: Any, draft: Draft, source: str) -> list[Item]:
    """Returns the items that one line of the repr becomes."""
    match value:
        case Call():
            where = f"{source}:{value.line}"
        case Unnamed(text=text) if (shown := SHOWN.match(text)) is not None:
            value = Call(shown.group(1), value.line)
            where = f"{source}:{value.line}"
        case Unnamed():
            draft.say(f"{source}:{value.line}", "dropped", f"{value.text} does not say what it is")
            return []
        case _:
            draft.say(source, "dropped", f"{value!r} is not a transform")
            return []
    if value.name in _CONTAINERS:
        return [each for child in _children(value) for each in _item(child, draft, source)]
    if value.name in _COMPOSED:
        with draft.inside() as at:
            branches = [_item(child, draft, source) for child in _children(value)]
        return _compose(value, where, draft, branches, at)
    if is_timms(value):
        draft.origin = "timm"
    if is_policy(value):
        return _timms(value, where, draft)
    if value.plain and value.name not in ("Lambda", "ToPILImage", *CROPS):
        text = f"{value.name}: an argument without its name; give what print(transform) shows"
        draft.say(where, "dropped", text)
        return []
    args = Args(_named(value))
    if value.name in CROPS and value.plain:
        args = Args({**args.values, "interpolation": "random"})
    if value.name in _ENDS:
        _ENDS[value.name](args, where, draft)
        return []
    if (words := _SILENT.get(value.name)) is not None:
        draft.say(where, *words)
        return []
    native, why = None, ""
    try:
        if value.name in NATIVE:
            native = NATIVE[value.name](args, draft)
            if unread := args.unread():
                unsaid = ", ".join(f"{name}={args.values[name]}" for name in unread)
                raise Unlike(f"{unsaid} has no native counterpart")
    except MISFITS as error:
        native, why = None, misfit(error)
    if native is None and is_timms(value):
        own = f"{value.name} is timm's own, and no op does it"
        draft.say(where, "dropped", f"{own}{f': {why}' if why else ''}")
        return []
    given = _foreign(value.name, args.values, draft)
    fills = given.get("value")
    if isinstance(fills, list) and all(map(is_number, fills)) and fills:
        given["value"] = tidy(sum(fills) / len(fills))[0]  # the library's own takes one number
    out = draft.place(where, value.name, native, why, given)
    if isinstance(fills, list) and any("torchvision.RandomErasing" in item for item in out):
        text = f"{value.name} fills with {given['value']:g} in all channels, there with {fills}"
        draft.say(where, "changed", text)
    # These commute with Normalize: a blend, a cut, and a rectangle whose value is known.
    commutes = all(next(iter(item)) in _COMMUTES for item in out)
    if draft.levels.centred and not commutes:
        text = f"{value.name} follows Normalize; here it acts before it, on 0..255"
        draft.say(where, "changed", text)
    return out


_COMMUTES = ("mixup", "cutmix", "random_erasing")


def _foreign(name: str, values: Mapping[str, Any], draft: Draft) -> dict[str, Any]:
    """Returns arguments as the library's own op takes them, its levels from 0 to 255."""
    given = {key: value for key, value in values.items() if key != "inplace"}
    if name == "RandomErasing":
        given.setdefault("value", "random")  # the one that v2 does not print
    for key in ("fill", "value"):
        try:
            if given.get(key) is not None:
                given[key] = draft.levels.grey(given[key], cut=key == "value")
        except MISFITS:
            pass  # as it stands: the library's own op refuses it or knows it
    return given


def _timms(call: Call, where: str, draft: Draft) -> list[Item]:
    """Returns the items of one of timm's policies."""
    try:
        text, how = policy(call)
    except MISFITS as error:
        draft.say(where, "dropped", f"timm's {call.name}: {misfit(error)}")
        return []
    return layers(text, where, f"timm's {call.name}, {text}", draft, *how)


def _children(call: Call) -> list[Any]:
    """Returns what a composition holds: a list, or one a line."""
    listed = call.named.get("transforms", call.plain)
    if len(listed) == 1 and isinstance(listed[0], list):
        return listed[0]
    return list(listed)


def _named(call: Call) -> dict[str, Any]:
    """Returns a transform's arguments as its constructor takes them."""
    out = {name: _plain(value) for name, value in call.named.items()}
    match out:
        case {"pad_if_needed": _, "padding": [left, right, top, bottom]}:
            # v2's RandomCrop prints them in this order, v1's what it was given.
            out["padding"] = [left, top, right, bottom]
    if call.name == "RandomIoUCrop" and "options" in out:
        out["sampler_options"] = out.pop("options")
    if isinstance(size := out.get("size"), list) and len(size) == 1:
        out["size"] = size[0]
    return out


def _plain(value: Any) -> Any:
    """Returns a value without tensors and enumerations about it."""
    match value:
        case Call(name="tensor") if value.plain:
            return _plain(value.plain[0])
        case Call():
            return f"{value.name}(...)"
        case Unnamed():
            return value.text
        case list():
            return [_plain(each) for each in value]
        case str():
            return value.rpartition(".")[2].lower() if "." in value else value
    return value


_COMPOSED = ("RandomApply", "RandomChoice", "RandomOrder")


def _compose(
    call: Call, where: str, draft: Draft, branches: list[list[Item]], at: int
) -> list[Item]:
    items = [each for branch in branches for each in branch]
    if not items:
        draft.say(where, "dropped", f"{call.name}: nothing in it was carried over")
        return []
    args = Args(_named(call))
    # A composition with a mix in it decides for each image, there once for the batch.
    mixed = ["decided for each image, there once for the batch"] * any(map(mixes, items))
    try:
        match call.name:
            case "RandomApply":
                p = args.number("p", 0.5)
                how = [] if "p" in call.named else ["its repr does not tell p; 0.5 is assumed"]
                item = with_p(sequence(items), p)
                return draft.compose(where, at, call.name, item, *how, *mixed)
            case "RandomChoice":
                given = call.named.get("p", call.named.get("probabilities"))
                item = {"one_of": {"ops": [sequence(branch) for branch in branches]}}
                if given is not None and len(set(given)) > 1:
                    item["one_of"]["weights"] = [float(each) for each in given]
                return draft.compose(where, at, call.name, item, *mixed)
            case _:
                ops = [sequence(branch) for branch in branches]
                item = {"shuffle": {"ops": ops}}
                return draft.compose(where, at, call.name, item, *mixed)
    except MISFITS as error:
        draft.say(where, "dropped", f"{call.name}: {misfit(error)}")
        return []


# -------------------------------------------------------- what numbers mean


def _to_unit(args: Args, where: str, draft: Draft) -> None:
    draft.levels.unit = True
    draft.say(where, "exact", "0..1 -> to_float, or within normalize, at the recipe's end")


def _to_dtype(args: Args, where: str, draft: Draft) -> None:
    if args.take("scale", False):
        draft.levels.unit = True
        text = "ToDtype -> to_float, or within normalize: its repr does not tell the dtype; "
        draft.say(where, "changed", text + "float32 is assumed")
    else:
        draft.say(where, "dropped", "ToDtype(scale=False): levels keep their scale and dtype")


def _convert_dtype(args: Args, where: str, draft: Draft) -> None:
    draft.levels.unit = True
    text = "ConvertImageDtype -> to_float: its repr does not tell the dtype; float32 is assumed"
    draft.say(where, "changed", text)


def _normalize(args: Args, where: str, draft: Draft) -> None:
    mean, std = args.take("mean"), args.take("std")
    try:
        if draft.depth:
            raise Unlike("stands in a composition; only the recipe's end can normalize")
        if not isinstance(mean, list) or not isinstance(std, list):
            raise Unlike("has no mean and std")
        draft.levels.normalize([float(each) for each in mean], [float(each) for each in std])
    except MISFITS as error:
        draft.say(where, "dropped", f"Normalize: {misfit(error)}")
    else:
        draft.say(where, "exact", "Normalize -> normalize, at the recipe's end")


def _to_pil(args: Args, where: str, draft: Draft) -> None:
    if draft.levels.centred:
        draft.say(where, "dropped", "ToPILImage after Normalize")
    else:
        draft.levels.unit = False
        draft.say(where, "exact", "ToPILImage: levels are 0..255 again")


_ENDS: dict[str, Callable[[Args, str, Draft], None]] = {
    "ToTensor": _to_unit,
    "MaybeToTensor": _to_unit,
    "ToDtype": _to_dtype,
    "ConvertImageDtype": _convert_dtype,
    "Normalize": _normalize,
    "ToPILImage": _to_pil,
}

_RAW = "levels stay 0..255; what timm's loader does after it, normalize above all, is not here"
_SILENT: dict[str, tuple[Verdict, str]] = {
    "Identity": ("exact", "Identity: nothing to do"),
    "PILToTensor": ("exact", "PILToTensor: the kind of image that comes in goes out"),
    "ToImage": ("exact", "ToImage: the kind of image that comes in goes out"),
    "ToPureTensor": ("exact", "ToPureTensor: the kind of image that comes in goes out"),
    "MaybePILToTensor": ("exact", f"MaybePILToTensor: {_RAW}"),
    "ToNumpy": ("exact", f"ToNumpy: {_RAW}"),
    "RGB": ("changed", "RGB: files are decoded to RGB; a grey array stays grey"),
    "ClampBoundingBoxes": ("exact", "ClampBoundingBoxes: boxes are clipped after each geometry"),
    "ConvertBoundingBoxFormat": (
        "dropped",
        "ConvertBoundingBoxFormat: boxes leave in the format in which they came",
    ),
    "Lambda": ("dropped", "Lambda: a recipe holds no code"),
    "FiveCrop": ("dropped", "FiveCrop: it makes several images of one"),
    "TenCrop": ("dropped", "TenCrop: it makes several images of one"),
}
