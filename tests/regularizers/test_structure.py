"""Tied parameters: one gradient that is the sum of the copies', and everything back at the end."""

from __future__ import annotations

import copy
import itertools

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import resnet50, vit_b_16

import augpipe
from augpipe.regularizers.wrapper import Regularized
from tests.regularizers.nets import LM, MLP, RESNET, TRANSFORMER, Net, drawn, seeded

EMBEDDINGS = {"share": {"tie": [["embedding.weight", "decoder.weight"]]}}
BLOCKS = {"share": {"tie": [["encoder.layers.*"]]}}


def wrap(model: nn.Module, item: object) -> Regularized:
    return augpipe.regularize(model, [item])


def stirred(net: Net) -> nn.Module:
    """A network of which no two parameters are copies."""
    model = net.build()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(torch.randn(each.shape, generator=generator) * 0.1)
    return model


def rows_of(model: nn.Module, item: object) -> list[list[str]]:
    """Returns the names that are one parameter, once tied."""
    wrap(model, item)
    by_parameter: dict[nn.Parameter, list[str]] = {}
    for name, each in model.named_parameters(remove_duplicate=False):
        by_parameter.setdefault(each, []).append(name)
    return [names for names in by_parameter.values() if len(names) > 1]


def gradients(model: nn.Module, net: Net) -> None:
    loss = nn.functional.cross_entropy(model(net.inputs()), net.targets())
    loss.backward()


CASES = [
    (LM, EMBEDDINGS),
    (LM, {"share": {"tie": [["lstm.weight_?h_l?"], ["lstm.bias_hh_l0", "lstm.bias_hh_l1"]]}}),
    (TRANSFORMER, BLOCKS),
    (TRANSFORMER, "share"),
    (RESNET, {"share": {"tie": [["layer1.*.conv[12].weight"], ["layer1.0.bn1", "bn1"]]}}),
]


@pytest.mark.parametrize(("net", "item"), CASES)
def test_the_gradient_is_the_sum_of_the_copies(net: Net, item: object) -> None:
    model = stirred(net)
    tied = rows_of(model, item)
    assert tied
    untied = net.build()
    untied.load_state_dict(model.state_dict())  # the same values in parameters of their own
    gradients(model, net)
    gradients(untied, net)
    own = dict(untied.named_parameters())
    for names in tied:
        total = sum(own[name].grad for name in names)
        torch.testing.assert_close(model.get_parameter(names[0]).grad, total)


@pytest.mark.parametrize(("net", "item"), CASES)
def test_the_optimizer_has_each_parameter_once_and_the_ties_hold(net: Net, item: object) -> None:
    model = stirred(net)
    count = len(list(model.parameters()))
    wrapped = wrap(model, item)
    assert len(list(model.parameters())) == count - len(wrapped.effects[0].sites)
    groups = wrapped.param_groups()
    each = list(itertools.chain.from_iterable(group["params"] for group in groups))
    assert len(each) == len(set(each))
    optimizer = torch.optim.SGD(groups, lr=0.1)
    wrapped.loss(wrapped(net.inputs()), net.targets()).backward()
    optimizer.step()
    wrapped.after_step()
    state = wrapped.state_dict()
    for site in wrapped.effects[0].sites:
        assert torch.equal(state[site.name], state[site.words.removeprefix("is ")])


@pytest.mark.parametrize(("net", "item"), CASES)
@pytest.mark.parametrize("how", ["untouched", "stepped", "loaded", "resumed"])
def test_remove_unties_with_what_was_trained(net: Net, item: object, how: str) -> None:
    model = stirred(net)
    before = dict(model.named_parameters())
    values = {name: each.detach().clone() for name, each in before.items()}
    wrapped = wrap(model, item)
    match how:
        case "stepped":
            wrapped.after_step()
        case "loaded":
            moved = {name: each + 1 for name, each in wrapped.state_dict().items()}
            wrapped.load_state_dict(moved)
        case "resumed":
            other = wrap(stirred(net), item)
            other.after_step()
            wrapped.load_run_state(other.run_state())
    now = {name: each.clone() for name, each in wrapped.state_dict().items()}
    assert wrapped.remove() is model
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is each for name, each in before.items()), "the same objects"
    expected = values if how == "untouched" else now
    for name, each in after.items():
        assert torch.equal(each, expected[name]), name


def test_a_trained_model_computes_the_same_after_remove() -> None:
    model = stirred(LM).eval()
    wrapped = wrap(model, EMBEDDINGS).eval()
    wrapped.after_step()
    expected = wrapped(LM.inputs())
    assert torch.equal(wrapped.remove()(LM.inputs()), expected)
    pointers = [each.data_ptr() for each in model.parameters()]
    assert len(pointers) == len(set(pointers)), "no two share their memory any more"


def test_the_wrapper_may_move_to_another_dtype_before_remove() -> None:
    model = stirred(LM)
    wrap(model, EMBEDDINGS).double().remove()
    assert model.decoder.weight.dtype == torch.double
    assert not torch.equal(model.decoder.weight, model.embedding.weight)


def test_a_copy_is_tied_within_itself() -> None:
    model = stirred(LM)
    twin = copy.deepcopy(wrap(model, EMBEDDINGS))
    assert twin.model.decoder.weight is twin.model.embedding.weight
    assert twin.model.decoder.weight is not model.decoder.weight
    assert twin.remove().decoder.weight is not twin.model.embedding.weight
    assert model.decoder.weight is model.embedding.weight


def test_safetensors_writes_a_tied_tensor_once_and_reads_it_back(tmp_path) -> None:
    wrapped = wrap(stirred(LM), EMBEDDINGS)
    path = tmp_path / "model.safetensors"
    with pytest.raises(RuntimeError, match="share memory"):
        safetensors.torch.save_file(wrapped.state_dict(), path)
    safetensors.torch.save_model(wrapped.model, str(path))
    assert len(safetensors.torch.load_file(path)) == len(wrapped.state_dict()) - 1
    other = wrap(LM.build(), EMBEDDINGS)
    safetensors.torch.load_model(other.model, str(path))
    for name, each in other.state_dict().items():
        assert torch.equal(each, wrapped.state_dict()[name]), name


def test_what_was_tied_before_stays_tied() -> None:
    model = LM.build()
    model.decoder.weight = model.embedding.weight
    with pytest.raises(augpipe.UsageError, match="are one already"):
        wrap(model, EMBEDDINGS)
    model.other = nn.Linear(8, 11, bias=False)
    wrap(model, {"share": {"tie": [["other.weight", "decoder.weight"]]}})
    assert model.other.weight is model.decoder.weight is model.embedding.weight


@pytest.mark.parametrize(
    ("net", "tie", "words"),
    [
        (LM, [["embedding.weight", "decoder.bias"]], r"is \(11, 8\) and .* is \(11,\)"),
        (LM, [["embeding.weight", "decoder.weight"]], r"matches no .*did you mean"),
        (LM, [["embedding.weight"]], "is embedding.weight alone"),
        (LM, [["embedding.weight", "lstm"]], r"names parameters .* and modules \(lstm\)"),
        (MLP, [["0.bias", "2.bias"], ["2.bias", "0.bias"]], "2.bias is in two groups"),
        (MLP, [["0", "2"]], r"0.weight is \(16, 6\) and 2.weight is \(16, 16\)"),
        (MLP, [["0", "1"]], "0 and 1 are not built alike: only one of them has bias"),
        (MLP, [["1", "3"]], "they have no parameters"),
        (MLP, "auto", "Sequential has no blocks that are built alike"),
    ],
)
@pytest.mark.parametrize("name", ["share", "soft_share"])
def test_what_cannot_be_tied_is_refused_by_name(name, net, tie, words) -> None:
    model = net.build()
    before = {key: id(each) for key, each in model.named_parameters()}
    with pytest.raises(augpipe.UsageError, match=f"{name}: .*{words}"):
        wrap(model, {name: {"tie": tie}})
    assert {key: id(each) for key, each in model.named_parameters()} == before


def test_auto_finds_the_blocks() -> None:
    with torch.device("meta"):
        found = {make: rows_of(make(), "soft_share") for make in (vit_b_16, resnet50)}
        assert all(not rows for rows in found.values()), "soft sharing ties nothing"
        vit = wrap(vit_b_16(), "soft_share").effects[0].sites
        residual = wrap(resnet50(), "soft_share").effects[0].sites
    assert vit[0].name.startswith("encoder.layers.encoder_layer_0.")
    assert vit[0].name.count("~") == 11
    assert residual[0].name.startswith("layer3.1.")
    assert residual[0].name.count("~") == 4


def pairwise(model: nn.Module, names: list[str]) -> Tensor:
    each = [model.get_parameter(name) for name in names]
    return sum((a - b).square().sum() for a, b in itertools.combinations(each, 2))


@pytest.mark.parametrize("to", ["pairs", "mean"])
def test_soft_sharing_is_the_squared_distance(to) -> None:
    names = [f"lstm.weight_{way}_l{layer}" for way in ("ih", "hh") for layer in (0, 1)]
    model = stirred(LM).double()
    item = {"soft_share": {"tie": [names], "strength": 0.3, "to": to}}
    wrapped = wrap(model, item)
    output = wrapped(LM.inputs())
    got = wrapped.loss(output, LM.targets())
    distance = pairwise(model, names) / (1 if to == "pairs" else len(names))
    torch.testing.assert_close(
        got, wrapped.criterion(output, LM.targets()) + 0.15 * distance, rtol=1e-12, atol=0
    )
    penalty = wrapped.effects[0].penalty(None, None)
    weights = [model.get_parameter(name) for name in names]
    own = torch.autograd.grad(penalty, weights)
    expected = torch.autograd.grad(0.15 * pairwise(model, names), weights)
    for a, b in zip(own, expected, strict=True):
        torch.testing.assert_close(a * (1 if to == "pairs" else len(names)), b)


def test_soft_sharing_of_blocks_matches_them_by_place() -> None:
    model = stirred(TRANSFORMER).double()
    wrapped = wrap(model, {"soft_share": {"tie": [["encoder.layers.*"]], "strength": 2}})
    places = [name for name, _ in model.encoder.layers[0].named_parameters()]
    expected = sum(
        pairwise(model, [f"encoder.layers.{i}.{place}" for i in (0, 1)]) for place in places
    )
    torch.testing.assert_close(wrapped.effects[0].penalty(None, None), expected)


def test_soft_sharing_follows_its_schedule() -> None:
    rate = {"start": 0, "end": 1, "steps": 2}
    wrapped = wrap(stirred(LM), {"soft_share": {**EMBEDDINGS["share"], "strength": rate}})
    found = []
    for _ in range(3):
        found.append(wrapped.effects[0].penalty(None, None).item())
        wrapped.after_step()
    assert found[0] == 0
    assert found[1] * 2 == pytest.approx(found[2])


def test_tied_blocks_compute_what_one_block_does_twice() -> None:
    model = stirred(TRANSFORMER).eval()
    wrap(model, BLOCKS)
    x = drawn(3, 5, 8)
    block = seeded(lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)).eval()
    block.load_state_dict(model.encoder.layers[0].state_dict())
    torch.testing.assert_close(model.encoder(x), block(block(x)))


def test_what_cannot_be_one_parameter_is_refused() -> None:
    for change, said in ((nn.Module.double, "torch.float64"), (frozen, "frozen")):
        model = nn.ModuleDict({"a": nn.Linear(6, 6), "b": change(nn.Linear(6, 6))})
        with pytest.raises(augpipe.UsageError, match=rf"^share: a\.weight is .*b\.weight.*{said}"):
            augpipe.regularize(model, [{"share": {"tie": [["a", "b"]]}}])


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


@pytest.mark.parametrize("name", ["share", "soft_share"])
def test_an_error_names_the_field(name: str) -> None:
    with pytest.raises(augpipe.UsageError, match=rf"^{name}: tie: 'nonesuch' matches no param"):
        augpipe.regularize(LM.build(), [{name: {"tie": [["nonesuch", "decoder"]]}}])
    with pytest.raises(augpipe.UsageError, match=rf"^{name}: tie: '\[9-1\]' is not a pattern"):
        augpipe.regularize(LM.build(), [{name: {"tie": [["[9-1]", "decoder"]]}}])
