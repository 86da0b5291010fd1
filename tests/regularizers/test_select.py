"""The grammar of `on:`, on names as models have them."""

from __future__ import annotations

import pytest
from torch import nn

import augpipe
from augpipe.regularizers import select

INSIDE = "conv1 bn1 layer1 layer1.0 layer1.0.conv1 layer1.0.conv2 layer1.0.bn2 layer1.1.conv2"
BESIDE = "layer2 layer2.0.conv2 layer2.10 layer3 layer4 layer^ fc head.fc a a.b a.b.c a-b"
NAMES = [*INSIDE.split(), *BESIDE.split()]


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("fc", "fc"),
        ("*", "conv1 bn1 layer1 layer2 layer3 layer4 layer^ fc a a-b"),
        ("**", " ".join(NAMES)),
        ("*.fc", "head.fc"),
        ("**.fc", "fc head.fc"),
        ("layer?", "layer1 layer2 layer3 layer4 layer^"),
        ("layer1.?", "layer1.0"),
        ("layer2.*", "layer2.10"),
        ("layer[34]", "layer3 layer4"),
        ("layer[1-3]", "layer1 layer2 layer3"),
        ("layer[!34]", "layer1 layer2 layer^"),
        ("layer[!1-4]", "layer^"),
        ("layer[^]", "layer^"),
        ("layer[3^]", "layer3 layer^"),
        ("layer*.conv2", ""),
        ("layer*.*.conv2", "layer1.0.conv2 layer1.1.conv2 layer2.0.conv2"),
        ("layer1.**", "layer1.0 layer1.0.conv1 layer1.0.conv2 layer1.0.bn2 layer1.1.conv2"),
        ("layer1**", "layer1 layer1.0 layer1.0.conv1 layer1.0.conv2 layer1.0.bn2 layer1.1.conv2"),
        ("**.conv2", "layer1.0.conv2 layer1.1.conv2 layer2.0.conv2"),
        ("**conv[12]", "conv1 layer1.0.conv1 layer1.0.conv2 layer1.1.conv2 layer2.0.conv2"),
        ("layer1.**.bn2", "layer1.0.bn2"),
        ("a.**.c", "a.b.c"),
        ("a.**.b", "a.b"),
        ("a[.-]b", "a.b a-b"),
        ("a[!x]b", "a-b"),  # others, but not a dot
        ("a.b", "a.b"),  # a dot is a dot
        ("laye", ""),  # the whole name
        ("ayer1", ""),
        ("LAYER1", ""),
        ("layer[", ""),  # no pattern: a letter
        ("(fc)", ""),
        ("fc|a", ""),
        ("fc+", ""),
        ("layer\\d", ""),
    ],
)
def test_patterns(selector: str, found: str) -> None:
    matched = {name for name in NAMES if select.pattern(selector).fullmatch(name)}
    assert matched == set(found.split())


def test_a_class_of_letters_that_is_none_is_refused() -> None:
    with pytest.raises(augpipe.UsageError, match=r"'layer\[4-1\]' is not a pattern"):
        select.pattern("layer[4-1]")


class Head(nn.Linear):
    pass


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv1d(4, 4, 3))])
        self.body.append(self.body[0])  # the same block again
        self.mlp = nn.Linear(4, 4)
        self.head = Head(4, 2)


def names(on, accepts=(nn.Module,)) -> list[str]:
    return [name for name, _ in select.modules(Net(), on, "technique", list, accepts, "site")]


@pytest.mark.parametrize(
    ("on", "found"),
    [
        ("stem.0", ["stem.0"]),
        ("Conv2d", ["stem.0", "body.0.0"]),
        ("_ConvNd", ["stem.0", "body.0.0", "body.0.1"]),  # a base type
        ("Linear", ["mlp", "head"]),  # with its subclasses
        ("Head", ["head"]),
        (("Linear", "!head"), ["mlp"]),
        (("!head", "Linear"), ["mlp"]),  # the order says nothing
        (("Conv2d", "Linear", "!**.0", "!Head"), ["mlp"]),
        (("head", "stem.0"), ["stem.0", "head"]),  # the model's order
        (("head", "Linear", "head"), ["mlp", "head"]),  # each once
        ("body.0", ["body.0"]),  # a module that stands twice, by its first name
    ],
)
def test_modules(on, found: list[str]) -> None:
    assert names(on) == found


def test_a_pattern_passes_over_what_cannot_be_a_site() -> None:
    assert names("**", (nn.Linear,)) == ["mlp", "head"]
    with pytest.raises(augpipe.UsageError, match=r"selects no site \(stem.0 is a Conv2d\)"):
        names("stem.*", (nn.Linear,))


@pytest.mark.parametrize(
    ("on", "words"),
    [
        ("steem", r"technique: on: 'steem' matches no module of Net \(did you mean 'stem'"),
        ("BatchNorm", r"matches no module of Net \(did you mean 'BatchNorm2d'"),
        ("zzz", r"\(it has stem, body, mlp, head\)"),
        (("stem", "heaad"), "'heaad' matches no module of Net .*'head'"),
        (("stem", "!heaad"), "'heaad' matches no module of Net .*'head'"),  # also what leaves out
        (("Linear", "!Linear"), r"on: \['Linear', '!Linear'\] selects no site"),
        ("auto", "Net has no site of its own accord: name it, on:"),
    ],
)
def test_no_site_is_an_error_with_near_misses(on, words: str) -> None:
    with pytest.raises(augpipe.UsageError, match=words):
        names(on)


@pytest.mark.parametrize(
    ("on", "found"),
    [
        ("auto", ["stem.0.weight", "body.0.0.weight", "body.0.1.weight", "mlp.weight"]),
        ("head", ["head.weight", "head.bias"]),
        ("head.bias", ["head.bias"]),
        ("**.bias", ["stem.0.bias", "stem.1.bias", "body.0.0.bias", "body.0.1.bias", "mlp.bias"]),
        ("BatchNorm2d", ["stem.1.weight", "stem.1.bias"]),
        (("stem", "!BatchNorm2d", "!**.bias"), ["stem.0.weight"]),
        (("Linear", "!head"), ["mlp.weight", "mlp.bias"]),
    ],
)
def test_parameters(on, found: list[str]) -> None:
    model = Net()
    if on in ("auto", "**.bias"):
        found = [*found, "head.weight" if on == "auto" else "head.bias"]
    got = select.parameters(model, on, "technique")
    assert list(got) == found
    assert all(each is model.get_parameter(name) for name, each in got.items())


def test_weights_leave_out_what_the_model_says() -> None:
    model = Net()
    model.no_weight_decay = lambda: {"mlp.weight"}
    assert "mlp.weight" not in select.parameters(model, "auto", "technique")


@pytest.mark.parametrize(
    ("on", "words"),
    [
        ("head.wight", r"matches no parameter or module of Net \(did you mean 'head.weight'"),
        ("ReLU", "on: 'ReLU' selects no parameters"),
        (("head", "!head"), r"selects no parameters"),
    ],
)
def test_no_parameter_is_an_error(on, words: str) -> None:
    with pytest.raises(augpipe.UsageError, match=words):
        select.parameters(Net(), on, "technique")
    with pytest.raises(augpipe.UsageError, match="ReLU has no weights: name some"):
        select.parameters(nn.ReLU(), "auto", "technique")


def test_a_pattern_that_is_none_names_the_technique() -> None:
    for name in ("dropout", "l2", "stochastic_depth"):
        with pytest.raises(augpipe.UsageError, match=rf"^{name}: on: '\[9-1\]' is not a pattern"):
            augpipe.regularize(Net(), [{name: {"on": "[9-1]"}}])


def test_a_second_name_is_told() -> None:
    model = Net()
    model.head.weight = model.mlp.weight
    for name, on, first in (("l2", "head.weight", "mlp.weight"), ("dropout", "body.1", "body.0")):
        with pytest.raises(augpipe.UsageError, match=rf"^{name}: on: '{on}' is {first}: call it"):
            augpipe.regularize(model, [{name: {"on": on}}])
