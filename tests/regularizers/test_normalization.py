"""Normalization that regularizes, against PyTorch's own layers and linear algebra."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

import augpipe
from augpipe.regularizers.wrapper import Regularized
from tests.regularizers.nets import MLP, RESNET, TRANSFORMER, drawn, seeded


def wrap(model: nn.Module, *items: object) -> Regularized:
    return augpipe.regularize(model, list(items))


# batch_norm


@pytest.mark.parametrize(
    ("make", "shape", "norm"),
    [
        (lambda: nn.Linear(6, 5), (16, 6), lambda: nn.BatchNorm1d(5)),
        (lambda: nn.Conv1d(3, 5, 3), (4, 3, 9), lambda: nn.BatchNorm1d(5)),
        (lambda: nn.Conv2d(3, 5, 3), (4, 3, 9, 8), lambda: nn.BatchNorm2d(5)),
        (lambda: nn.ConvTranspose2d(3, 5, 3), (4, 3, 9, 8), lambda: nn.BatchNorm2d(5)),
    ],
)
def test_an_inserted_batch_norm_is_torchs(make, shape, norm) -> None:
    layer = seeded(lambda: nn.Sequential(make()))
    wrapped = wrap(layer, {"batch_norm": {"on": "0"}})
    other = nn.Sequential(make(), norm())
    other[0].load_state_dict(layer[0].state_dict())
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (wrapped, other)]
    for _ in range(3):
        losses = []
        for module, optimizer in zip((wrapped, other), optimizers, strict=True):
            optimizer.zero_grad()
            loss = (module(drawn(*shape)) * drawn(*shape).mean()).square().sum() / 10
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        torch.testing.assert_close(*losses)
    wrapped.eval()
    other.eval()
    torch.testing.assert_close(wrapped(drawn(*shape)), other(drawn(*shape)))
    norm_of = wrapped.effects[0].norms[0]
    torch.testing.assert_close(norm_of.running_var, other[1].running_var)
    assert not torch.equal(norm_of.weight, torch.ones(5)), "it is trained"


def test_an_inserted_batch_norm_after_a_linear_layer_on_sequences() -> None:
    layer = seeded(lambda: nn.Sequential(nn.Linear(6, 5)))
    plain = layer(drawn(4, 7, 6))
    expected = nn.BatchNorm1d(5)(plain.flatten(0, 1)).view(4, 7, 5)
    torch.testing.assert_close(wrap(layer, {"batch_norm": "0"})(drawn(4, 7, 6)), expected)


def test_auto_inserts_behind_all_but_the_last_layer_of_a_plain_network() -> None:
    wrapped = wrap(MLP.build(), "batch_norm")
    assert [site.name for site in wrapped.effects[0].sites] == ["0", "2"]
    assert "0, 2: batch norm behind it" in repr(wrapped)
    for net in (RESNET, TRANSFORMER):
        with pytest.raises(augpipe.UsageError, match="of its own accord"):
            wrap(net.build(), "batch_norm")


def test_an_inserted_batch_norm_has_the_mode_of_its_layer_and_the_wrappers_dtype() -> None:
    model = MLP.build()
    wrapped = wrap(model, "batch_norm").double()
    model[0].eval()
    wrapped(MLP.inputs().double())
    first, second = wrapped.effects[0].norms
    assert torch.equal(first.running_mean, torch.zeros(16, dtype=torch.double))
    assert second.running_mean.any()


def test_what_an_inserted_batch_norm_learned_is_in_the_run_state_only() -> None:
    wrapped = wrap(MLP.build(), "batch_norm")
    wrapped(MLP.inputs())
    saved = wrapped.run_state()["effects"][0]["own"]
    assert torch.equal(saved["norms.0.running_mean"], wrapped.effects[0].norms[0].running_mean)
    assert not [name for name in wrapped.state_dict() if "norm" in name]


# ghost_batch_norm


def ghost(layer: nn.Module, size: int) -> Regularized:
    return wrap(nn.Sequential(layer), {"ghost_batch_norm": size})


NORMS = [
    (lambda: nn.BatchNorm1d(3), (3,)),
    (lambda: nn.BatchNorm1d(3, momentum=None), (3, 4)),
    (lambda: nn.BatchNorm2d(3, affine=False, momentum=0.3), (3, 4, 5)),
    (lambda: nn.BatchNorm2d(3, track_running_stats=False), (3, 4, 5)),
    (lambda: nn.BatchNorm3d(3), (3, 2, 2, 2)),
    (lambda: BatchNormAct2d(3), (3, 4, 5)),
]


@pytest.mark.parametrize(("make", "shape"), NORMS)
@pytest.mark.parametrize("n", [8, 10, 3])
def test_ghost_batch_norm_is_a_loop_over_chunks(make, shape, n) -> None:
    x = drawn(n, *shape).double() * 3 + 1
    layer, other = (make().double() for _ in range(2))
    wrapped = ghost(layer, 4)
    a, b = (x.clone().requires_grad_() for _ in range(2))
    got = wrapped(a)
    expected = torch.cat([other(b[i : i + 4]) for i in range(0, n, 4)])
    torch.testing.assert_close(got, expected)
    for (name, own), theirs in zip(
        layer.state_dict().items(), other.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(own, theirs, msg=name)
    (got * x.cos()).sum().backward()
    (expected * x.cos()).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    for own, theirs in zip(layer.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(own.grad, theirs.grad)
    wrapped.eval()
    other.eval()
    assert torch.equal(wrapped(x), other(x))


def test_ghost_batch_norm_by_hand() -> None:
    """The equation and the running statistics, with no batch norm of PyTorch's."""
    layer = nn.BatchNorm1d(3).double()
    x = drawn(8, 3).double()
    got = ghost(layer, 4)(x)
    mean, variance = torch.zeros(3).double(), torch.ones(3).double()
    for i, part in enumerate(x.split(4)):
        y = (part - part.mean(0)) / (part.var(0, correction=0) + layer.eps).sqrt()
        torch.testing.assert_close(got[4 * i : 4 * i + 4], y)
        mean = 0.9 * mean + 0.1 * part.mean(0)
        variance = 0.9 * variance + 0.1 * part.var(0)
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, variance)
    assert layer.num_batches_tracked == 2


@pytest.mark.parametrize("size", [8, 9])
def test_ghost_batch_norm_at_the_size_of_the_batch_is_the_layer(size) -> None:
    layer, other = (seeded(lambda: nn.BatchNorm2d(3)) for _ in range(2))
    x = drawn(8, 3, 4, 4)
    assert torch.equal(ghost(layer, size)(x), other(x))
    assert torch.equal(layer.running_var, other.running_var)


def test_a_last_chunk_of_one_value_goes_with_the_one_before() -> None:
    layer, other = (nn.BatchNorm1d(3) for _ in range(2))
    x = drawn(9, 3)
    expected = torch.cat([other(x[:4]), other(x[4:])])
    torch.testing.assert_close(ghost(layer, 4)(x), expected)
    torch.testing.assert_close(layer.running_var, other.running_var)


def test_a_last_chunk_of_one_image_stands_alone() -> None:
    layer, other = (nn.BatchNorm2d(3) for _ in range(2))
    x = drawn(9, 3, 4, 4)
    expected = torch.cat([other(each) for each in x.split(4)])
    torch.testing.assert_close(ghost(layer, 4)(x), expected)


@pytest.mark.parametrize("last", [True, False])
def test_noise_on_the_same_layer_sees_the_whole_batch(last) -> None:
    """In either order of the recipe: what is dropped is spread over all chunks."""
    layer = nn.BatchNorm1d(50)
    items = [{"ghost_batch_norm": 4}, {"dropout": {"on": "0", "p": 0.5}}]
    wrapped = wrap(nn.Sequential(layer), *(items if last else items[::-1]))
    seen: list[Tensor] = []
    own = layer.forward
    layer.forward = lambda x: seen.append(x) or own(x)
    wrapped(torch.ones(12, 50))
    assert [len(each) for each in seen] == [4, 4, 4]
    assert all(0.2 < (each == 0).float().mean() < 0.8 for each in seen)


@pytest.mark.parametrize("last", [True, False])
def test_noise_on_the_output_of_the_same_layer_sees_the_whole_batch(last) -> None:
    items = [{"ghost_batch_norm": 4}, {"dropout": {"on": "0", "p": 0.5, "at": "output"}}]
    wrapped = wrap(nn.Sequential(nn.BatchNorm1d(50)), *(items if last else items[::-1]))
    for each in wrapped(drawn(12, 50)).split(4):
        assert 0.2 < (each == 0).float().mean() < 0.8


def test_ghost_batch_norm_goes_on_after_a_forward_that_raised() -> None:
    layer = nn.BatchNorm1d(3)
    wrapped = ghost(layer, 2)
    with pytest.raises(RuntimeError):
        wrapped(torch.zeros(4, 5))
    assert wrapped(drawn(2, 3)).shape == (2, 3)


def test_sync_batch_norm_is_refused() -> None:
    with pytest.raises(augpipe.UsageError, match="ghost_batch_norm: 0 is a SyncBatchNorm"):
        ghost(nn.SyncBatchNorm(3), 4)


# freeze_batch_norm


def one_step(wrapped: Regularized, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    wrapped.loss(wrapped(RESNET.inputs()), RESNET.targets()).backward()
    wrapped.before_step(optimizer)
    optimizer.step()
    wrapped.after_step()


@pytest.mark.parametrize("affine", [True, False])
def test_frozen_batch_norm_is_torchvisions(affine) -> None:
    model = RESNET.build()
    wrapped = wrap(model, {"freeze_batch_norm": {"affine": affine}})
    other = RESNET.build()
    for name, module in list(other.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(module.num_features, module.eps)
            frozen.load_state_dict(module.state_dict())
            parent, _, own = name.rpartition(".")
            setattr(other.get_submodule(parent), own, frozen)
    torch.testing.assert_close(wrapped(RESNET.inputs()), other(RESNET.inputs()))
    before = {name: each.clone() for name, each in model.bn1.state_dict().items()}
    one_step(wrapped, torch.optim.SGD(wrapped.param_groups(), lr=0.1, weight_decay=0.1))
    after = model.bn1.state_dict()
    same = {name: torch.equal(before[name], after[name]) for name in before}
    assert same.pop("weight") == same.pop("bias") == affine
    assert all(same.values())


def test_batch_norm_is_frozen_after_so_many_steps_and_thawed_at_the_end() -> None:
    model = RESNET.build()
    wrapped = wrap(model, {"freeze_batch_norm": {"on": "bn1", "after": 2}})
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.01)
    tracked = []
    for _ in range(4):
        one_step(wrapped, optimizer)
        wrapped.eval()
        assert not model.bn1.training
        wrapped.train()
        tracked.append((model.bn1.num_batches_tracked.item(), model.bn1.training))
    assert tracked == [(1, True), (2, False), (2, False), (2, False)]
    assert model.layer1[0].bn1.num_batches_tracked == 4, "the others learn on"
    again = wrap(RESNET.build(), {"freeze_batch_norm": {"on": "bn1", "after": 2}})
    again.load_run_state(wrapped.run_state())
    assert not again.model.bn1.training
    assert wrapped.remove().bn1.training


@pytest.mark.parametrize("first", [True, False])
def test_frozen_layers_have_no_ghosts(first) -> None:
    items = ["freeze_batch_norm", {"ghost_batch_norm": 2}]
    wrapped = wrap(RESNET.build(), *(items if first else items[::-1]))
    torch.testing.assert_close(
        wrapped(RESNET.inputs()), wrap(RESNET.build(), items[0])(RESNET.inputs())
    )


# spectral_norm


LAYERS = [
    (lambda: nn.Linear(6, 5), (4, 6)),
    (lambda: nn.Conv2d(3, 5, 3), (4, 3, 8, 8)),
    (lambda: nn.Conv1d(4, 6, 3, groups=2), (4, 4, 8)),
    (lambda: nn.ConvTranspose2d(3, 5, 3), (4, 3, 8, 8)),
]


def effective(wrapped: Regularized, x: Tensor) -> Tensor:
    """Returns the weight that the layer computes with, as a matrix."""
    seen = []
    layer = wrapped.model[0]
    own = layer.forward
    layer.forward = lambda *a: seen.append(layer._parameters["weight"].detach()) or own(*a)
    wrapped(x)
    del layer.forward
    out = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    return seen[0].movedim(out, 0).flatten(1)


@pytest.mark.parametrize(("make", "shape"), LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_the_largest_singular_value_becomes_the_bound(make, shape, training) -> None:
    model = seeded(lambda: nn.Sequential(make())).double()
    wrapped = wrap(model, {"spectral_norm": {"on": "0", "bound": 3}})
    for _ in range(300):
        wrapped(drawn(*shape).double())
    wrapped.train(training)
    sigma = torch.linalg.matrix_norm(effective(wrapped, drawn(*shape).double()), ord=2)
    assert sigma.item() == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_output_and_gradient_are_those_of_torchs_spectral_norm(make, shape) -> None:
    model, other = (seeded(lambda: nn.Sequential(make())).double() for _ in range(2))
    wrapped = wrap(model, {"spectral_norm": {"on": "0"}})
    nn.utils.parametrizations.spectral_norm(other[0])
    theirs = other[0].parametrizations.weight
    x = drawn(*shape).double()
    # From the same u and v, step by step.
    theirs[0]._u.copy_(wrapped.effects[0].u0)
    theirs[0]._v.copy_(wrapped.effects[0].v0)
    for _ in range(3):
        got, expected = wrapped(x), other(x)
        torch.testing.assert_close(got, expected)
        got.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(model[0].weight.grad, theirs.original.grad)
    wrapped.eval()
    other.eval()
    torch.testing.assert_close(wrapped(x), other(x))


@pytest.mark.parametrize(("bound", "kept"), [(0.1, False), (100, True)])
def test_above_leaves_smaller_weights_alone(bound, kept) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 5)))
    wrapped = wrap(model, {"spectral_norm": {"on": "0", "bound": bound, "when": "above"}})
    assert torch.equal(wrapped(drawn(4, 6)), model[0].forward(drawn(4, 6))) == kept


def test_two_forwards_before_the_backward() -> None:
    wrapped = wrap(seeded(lambda: nn.Sequential(nn.Linear(6, 5))), {"spectral_norm": {"on": "0"}})
    (wrapped(drawn(4, 6)).sum() - wrapped(-drawn(4, 6)).sum()).backward()


@pytest.mark.parametrize("when", ["always", "above"])
def test_a_layer_that_starts_as_zeros_wakes_up(when) -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    nn.init.zeros_(model[0].weight)
    wrapped = wrap(model, {"spectral_norm": {"on": "0", "bound": 2, "when": when}})
    wrapped(drawn(4, 6)).square().sum().backward()
    assert model[0].weight.grad.isfinite().all()
    assert model[0].weight.grad.any()
    nn.init.eye_(model[0].weight.data.mul_(0))
    with torch.no_grad():
        model[0].weight.mul_(7)
    for _ in range(20):
        wrapped(drawn(4, 6))
    sigma = torch.linalg.matrix_norm(effective(wrapped, drawn(4, 6)), ord=2)
    assert sigma.item() == pytest.approx(2, rel=1e-4)


def test_weights_loaded_without_the_run_state_are_divided_by_their_own_sigma() -> None:
    wrapped = wrap(seeded(lambda: nn.Sequential(nn.Linear(6, 5))), {"spectral_norm": {"on": "0"}})
    wrapped.load_state_dict({"0.weight": drawn(5, 6) * 20, "0.bias": drawn(5)})
    wrapped.eval()
    sigma = torch.linalg.matrix_norm(effective(wrapped, drawn(4, 6)), ord=2)
    assert sigma.item() == pytest.approx(1, rel=0.01)  # 15 iterations


def test_wrapping_draws_nothing_from_the_generator() -> None:
    before = torch.get_rng_state()
    wrap(RESNET.build(), "spectral_norm")
    torch.testing.assert_close(torch.get_rng_state(), before)


def test_sigma_is_in_full_precision_under_autocast() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 5)))
    wrapped = wrap(model, {"spectral_norm": {"on": "0"}})
    wrapped.eval()
    expected = effective(wrapped, drawn(4, 6))
    with torch.autocast("cpu", torch.bfloat16):
        assert wrapped(drawn(4, 6)).dtype == torch.bfloat16
        assert torch.equal(effective(wrapped, drawn(4, 6)), expected)


def test_thawed_layers_have_the_modes_that_they_would_have() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4))

    model = build()  # put into eval() from inside
    wrapped = wrap(model, "freeze_batch_norm")
    model.eval()
    wrapped.remove()
    assert not any(each.training for each in model.modules())
    model = build()  # one layer was frozen before
    model[1].eval()
    wrapped = wrap(model, "freeze_batch_norm")
    assert not model[2].training
    wrapped.remove()
    assert [each.training for each in model] == [True, False, True]
    model = build()
    wrapped = wrap(model, {"freeze_batch_norm": {"after": 1}})
    model[1].eval()
    wrapped.remove()
    assert [each.training for each in model] == [True, False, True]
