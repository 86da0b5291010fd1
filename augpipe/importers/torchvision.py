"""From what `print(torchvision.transforms.Compose(...))` shows, v1 or v2, to a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from augpipe.importers.args import MISFITS, Args, Item, Unlike, misfit
from augpipe.importers.draft import Draft, Verdict, sequence, with_p
from augpipe.importers.reprs import Call, Reader, Unnamed
from augpipe.importers.torchvision_ops import NATIVE
from augpipe.ops import find

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
    draft.sample = _item(root, draft, source)
    return draft


def _item(value: Any, draft: Draft, source: str) -> list[Item]:
    """Returns the items that one line of the repr becomes."""
    match value:
        case Call():
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
    if value.plain and value.name not in ("Lambda", "ToPILImage"):
        text = f"{value.name}: an argument without its name; give what print(transform) shows"
        draft.say(where, "dropped", text)
        return []
    args = Args(_named(value))
    if value.name in _ENDS:
        _ENDS[value.name](args, where, draft)
        return []
    if (words := _SILENT.get(value.name)) is not None:
        draft.say(where, *words)
        return []
    if value.name in ("MixUp", "CutMix"):
        return _mix(value.name, args, where, draft)
    native, why = None, ""
    try:
        if value.name in NATIVE:
            native = NATIVE[value.name](args, draft)
            if unread := args.unread():
                unsaid = ", ".join(f"{name}={args.values[name]}" for name in unread)
                raise Unlike(f"{unsaid} has no native counterpart")
    except MISFITS as error:
        native, why = None, misfit(error)
    late, given = draft.levels.centred, dict(args.values)
    try:
        if given.get("fill") is not None:
            given["fill"] = draft.levels.grey(given["fill"])
    except MISFITS:
        pass  # as it stands: the library's own op refuses it or knows it
    out = draft.place(where, value.name, native, why, given)
    if late and out and value.name != "RandomErasing":
        text = f"{value.name} follows Normalize; here it acts before it, on 0..255"
        draft.say(where, "changed", text)
    return out


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
    try:
        match call.name:
            case "RandomApply":
                p = args.number("p", 0.5)
                how = [] if "p" in call.named else ["its repr does not tell p; 0.5 is assumed"]
                item = with_p(sequence(items), p)
                return draft.compose(where, at, call.name, item, *how)
            case "RandomChoice":
                given = call.named.get("p", call.named.get("probabilities"))
                item = {"one_of": {"ops": [sequence(branch) for branch in branches]}}
                if given is not None and len(set(given)) > 1:
                    item["one_of"]["weights"] = [float(each) for each in given]
                return draft.compose(where, at, call.name, item)
            case _:
                ops = [sequence(branch) for branch in branches]
                return draft.compose(where, at, call.name, {"shuffle": {"ops": ops}})
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
    "ToDtype": _to_dtype,
    "ConvertImageDtype": _convert_dtype,
    "Normalize": _normalize,
    "ToPILImage": _to_pil,
}

_SILENT: dict[str, tuple[Verdict, str]] = {
    "Identity": ("exact", "Identity: nothing to do"),
    "PILToTensor": ("exact", "PILToTensor: the kind of image that comes in goes out"),
    "ToImage": ("exact", "ToImage: the kind of image that comes in goes out"),
    "ToPureTensor": ("exact", "ToPureTensor: the kind of image that comes in goes out"),
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


def _mix(name: str, args: Args, where: str, draft: Draft) -> list[Item]:
    op = name.lower()
    if find(op) is None:
        draft.say(where, "dropped", f"{name}: there is no op '{op}'")
        return []
    item: Item = {op: {"alpha": args.take("alpha", 1.0)}}
    draft.batch.append(item)
    if (classes := args.take("num_classes")) is not None:
        draft.fields["classes"] = classes
    draft.say(where, "exact", f"{name} -> {op}, in batch:")
    return []
