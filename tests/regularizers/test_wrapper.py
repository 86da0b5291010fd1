"""The wrapper in training loops of every kind."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import augpipe
from augpipe.errors import Place, UsageError
from augpipe.regularizers.wrapper import Regularized
from tests.harness import ROOT
from tests.regularizers.nets import LM, MLP, RESNET, TRANSFORMER, Net

STACK = [
    {"dropout": {"p": 0.2}},
    {"label_smoothing": 0.1},
    {"weight_decay": 0.05},
    {"gradient_clipping": 1.0},
    {"ema": {"decay": 0.5}},
    {"early_stopping": {"patience": 2}},
]
NETS = pytest.mark.parametrize("net", [MLP, RESNET, LM, TRANSFORMER], ids=lambda net: net.name)


def loop(wrapped: Regularized, net: Net, steps: int, optimizer=None) -> list[float]:
    """The loop of the class's docstring."""
    optimizer = optimizer or torch.optim.SGD(wrapped.param_groups(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = wrapped.loss(wrapped(net.inputs()), net.targets())
        optimizer.zero_grad()
        loss.backward()
        wrapped.before_step(optimizer)
        optimizer.step()
        wrapped.after_step()
        losses.append(loss.item())
    return losses


def weights(module: nn.Module) -> list[Tensor]:
    return [each.detach().clone() for each in module.state_dict().values()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


@NETS
def test_a_plain_loop_learns(net: Net) -> None:
    torch.manual_seed(0)
    wrapped = augpipe.regularize(net.build(), STACK)
    steps = 4 if net is RESNET else 12
    losses = loop(wrapped, net, steps)
    assert losses[-1] < losses[0]
    assert wrapped.steps == steps
    wrapped.eval()
    with wrapped.averaged(), torch.no_grad():
        loss = wrapped.loss(wrapped(net.inputs()), net.targets()).item()
    assert not wrapped.end_epoch({"val_loss": loss})
    wrapped.finish()
    with torch.no_grad():  # PyTorch's transformer layers have another path for it
        assert wrapped.loss(wrapped(net.inputs()), net.targets()).item() == loss


def test_any_optimizer_takes_the_groups() -> None:
    for cls in (torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad):
        wrapped = augpipe.regularize(MLP.build(), STACK)
        optimizer = cls(wrapped.param_groups(), lr=0.01)
        grouped = [each for group in optimizer.param_groups for each in group["params"]]
        assert sorted(map(id, grouped)) == sorted(map(id, wrapped.model.parameters()))
        assert all(group["lr"] == 0.01 for group in optimizer.param_groups)
        before = weights(wrapped)
        loop(wrapped, MLP, 2, optimizer)
        assert not equal(weights(wrapped), before)


def test_the_same_without_any_technique_as_the_plain_model() -> None:
    """A wrapper of nothing is nothing; `regularize` refuses it, for it is a slip in a recipe."""
    plain = MLP.build()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(plain(MLP.inputs()), MLP.targets()).backward()
        optimizer.step()
    wrapped = Regularized(MLP.build(), ())
    loop(wrapped, MLP, 3)
    assert equal(weights(wrapped), weights(plain))
    with pytest.raises(augpipe.UsageError, match="no regularizers"):
        augpipe.regularize(MLP.build(), [])


def test_a_closure_for_those_that_look_at_the_loss_elsewhere() -> None:
    """And for LBFGS, which calls it as often as it likes."""
    wrapped = augpipe.regularize(MLP.build(), [{"l2": 1e-3}, "sam"])
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = wrapped.loss(wrapped(MLP.inputs()), MLP.targets())
        loss.backward()
        return loss

    losses = []
    for _ in range(5):
        losses.append(closure().item())
        wrapped.before_step(optimizer, closure)
        optimizer.step()
        wrapped.after_step()
    assert losses[-1] < losses[0]

    wrapped = augpipe.regularize(MLP.build(), [{"l2": 1e-3}, "ema"])
    optimizer = torch.optim.LBFGS(wrapped.param_groups()[0]["params"])
    first = optimizer.step(closure)
    wrapped.after_step()
    assert closure().item() < first.item()


def test_a_step_without_before_step_names_who_needs_it() -> None:
    wrapped = augpipe.regularize(MLP.build(), ["ema", "l1"])
    wrapped.loss(wrapped(MLP.inputs()), MLP.targets()).backward()
    before = weights(wrapped)
    with pytest.raises(augpipe.UsageError, match=r"l1 needs the optimizer: call wrapped.befor"):
        wrapped.after_step()
    assert wrapped.steps == 0 and equal(weights(wrapped), before)
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
    wrapped.before_step(optimizer)
    wrapped.after_step()
    with pytest.raises(augpipe.UsageError, match="l1 needs"):
        wrapped.after_step()  # each step anew


def test_wrapping_twice_is_refused_and_after_remove_is_not() -> None:
    model = MLP.build()
    wrapped = augpipe.regularize(model, STACK)
    with pytest.raises(augpipe.UsageError, match="wrapped already: remove"):
        augpipe.regularize(wrapped, STACK)
    again = augpipe.regularize(wrapped.remove(), STACK)
    assert again.model is model and len(again.effects) == len(STACK)


@pytest.mark.parametrize(
    "bad", [None, "resnet18", lambda x: x, MLP], ids=lambda each: type(each).__name__
)
def test_what_is_no_module_is_refused(bad) -> None:
    with pytest.raises(augpipe.UsageError, match=r"must be a torch\.nn\.Module; got"):
        augpipe.regularize(bad, STACK)


def test_a_technique_without_a_site_leaves_nothing_on_the_model() -> None:
    model = MLP.build()
    with pytest.raises(augpipe.UsageError, match="nonesuch"):
        augpipe.regularize(model, [*STACK, {"dropout": {"on": "nonesuch"}}])
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_a_recipe_from_a_file_with_overrides(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("version: 1\nregularize:\n  - dropout: {p: 0.1}\n  - ema\n")
    wrapped = augpipe.regularize(MLP.build(), path, overrides=["regularize.0.dropout.p=0.3"])
    assert "p 0.3" in repr(wrapped)
    path.write_text("version: 1\nregularize:\n  - dropot: {p: 0.1}\n  - ema: 2\n")
    with pytest.raises(augpipe.RecipeError, match="did you mean 'dropout'") as caught:
        augpipe.regularize(MLP.build(), path)
    assert "recipe.yaml:3" in str(caught.value) and "recipe.yaml:4" in str(caught.value)


def test_print_shows_every_site() -> None:
    wrapped = augpipe.regularize(
        RESNET.build(), [{"dropout": {"on": "**.bn2", "p": 0.1}}, "label_smoothing", "ema"]
    )
    assert repr(wrapped).splitlines() == [
        "ResNet with 3 regularizers",
        "  dropout          layer1.0.bn2, layer2.0.bn2, layer3.0.bn2, layer4.0.bn2: input, p 0.1",
        "  label_smoothing  loss: epsilon 0.1",
        "  ema              weights: moving average, decay 0.999",
    ]
    wrapped = augpipe.regularize(RESNET.build(), [{"dropout": {"on": "Conv2d"}}])
    assert "conv1, layer1.0.conv1, layer1.0.conv2, layer2.0.conv1 and 8 more" in repr(wrapped)


def test_a_slip_in_a_name_is_answered() -> None:
    wrapped = augpipe.regularize(MLP.build(), STACK)
    with pytest.raises(AttributeError, match=r"no 'los' \(did you mean 'loss'"):
        wrapped.los  # noqa: B018
    with pytest.raises(AttributeError, match=r"own attributes are on wrapped\.model"):
        wrapped.qqqq  # noqa: B018
    assert not hasattr(wrapped, "fc")


def test_the_state_of_another_recipe_is_refused() -> None:
    wrapped = augpipe.regularize(MLP.build(), ["dropout", "ema"])
    other = augpipe.regularize(MLP.build(), ["ema"])
    with pytest.raises(augpipe.UsageError, match=r"regularizers dropout, ema; this .* ema$"):
        other.load_run_state(wrapped.run_state())
    with pytest.raises(augpipe.UsageError, match="has the regularizers none"):
        other.load_run_state(Regularized(MLP.build(), ()).run_state())


def test_a_run_of_the_whole_stack_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def start() -> tuple[Regularized, torch.optim.Optimizer]:
        wrapped = augpipe.regularize(MLP.build(), [*STACK, "gradient_noise"])
        return wrapped, torch.optim.SGD(wrapped.param_groups(), lr=0.1, momentum=0.9)

    def go_on(wrapped: Regularized, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        torch.manual_seed(7)
        loop(wrapped, MLP, 3, optimizer)
        assert not wrapped.end_epoch({"val_loss": 2.0})
        loop(wrapped, MLP, 1, optimizer)
        with wrapped.averaged():
            judged = weights(wrapped)
        assert wrapped.end_epoch({"val_loss": 2.0})
        wrapped.finish()
        return [*judged, *weights(wrapped)]

    wrapped, optimizer = start()
    loop(wrapped, MLP, 3, optimizer)
    wrapped.end_epoch({"val_loss": 1.0})
    kept = [wrapped.state_dict(), wrapped.run_state(), optimizer.state_dict()]
    torch.save(kept, tmp_path / "run.pt")
    expected = go_on(wrapped, optimizer)
    wrapped, optimizer = start()
    own, state, steps = torch.load(tmp_path / "run.pt", weights_only=True)
    wrapped.load_state_dict(own)
    wrapped.load_run_state(state)
    optimizer.load_state_dict(steps)
    assert equal(go_on(wrapped, optimizer), expected)


def test_a_copy_and_a_pickle_are_whole_and_apart() -> None:
    wrapped = augpipe.regularize(MLP.build(), STACK)
    loop(wrapped, MLP, 2)
    twins = [copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))]
    buffer = io.BytesIO()
    torch.save(wrapped, buffer)
    buffer.seek(0)
    twins.append(torch.load(buffer, weights_only=False))
    torch.manual_seed(3)
    loop(wrapped, MLP, 3)
    for twin in twins:
        assert not equal(weights(twin), weights(wrapped))
        torch.manual_seed(3)
        loop(twin, MLP, 3)
        assert equal(weights(twin), weights(wrapped))
        with twin.averaged(), wrapped.averaged():
            assert equal(weights(twin), weights(wrapped))
        twin.remove()
        assert not any(each._forward_pre_hooks for each in twin.model.modules())
    assert any(each._forward_pre_hooks for each in wrapped.model.modules())


def test_parallel_wrappers_keep_the_keys() -> None:
    """As `DistributedDataParallel` and `DataParallel` prefix them."""
    plain = MLP.build()
    wrapped = augpipe.regularize(MLP.build(), STACK)
    outer = nn.ModuleDict({"module": wrapped})
    expected = [f"module.{name}" for name in plain.state_dict()]
    assert list(outer.state_dict()) == expected
    loop(wrapped, MLP, 1)
    other = nn.ModuleDict({"module": MLP.build()})
    other.load_state_dict(outer.state_dict())
    outer.load_state_dict(nn.ModuleDict({"module": MLP.build()}).state_dict())
    assert equal(weights(wrapped), weights(plain))


def test_a_state_that_does_not_fit_is_refused() -> None:
    wrapped = augpipe.regularize(MLP.build(), STACK)
    state = MLP.build().state_dict()
    state["5.weight"] = state.pop("0.weight")
    with pytest.raises(RuntimeError, match=r'(?s)Missing.*"0.weight".*Unexpected.*5.weight'):
        wrapped.load_state_dict(state)


def test_a_whole_resnet_compiles() -> None:
    """One graph, forward and backward, and the same training as without, to rounding."""
    torch._dynamo.reset()
    results = []
    for compiled in (False, True):
        wrapped = augpipe.regularize(RESNET.build(), STACK)
        forward = wrapped
        if compiled:
            forward = torch.compile(wrapped, backend="aot_eager", fullgraph=True)
        optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
        torch.manual_seed(0)
        for _ in range(2):
            loss = wrapped.loss(forward(RESNET.inputs()), RESNET.targets())
            optimizer.zero_grad()
            loss.backward()
            wrapped.before_step(optimizer)
            optimizer.step()
            wrapped.after_step()
        results.append(weights(wrapped))
    for a, b in zip(*results, strict=True):
        # Rounding: traced backward passes add gradients in another order.
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_scaler_and_autocast() -> None:
    """Gradients are unscaled before clipping: the step is no longer than lr times the limit."""
    wrapped = augpipe.regularize(MLP.build(), [{"dropout": 0.1}, {"gradient_clipping": 0.1}, "ema"])
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for _ in range(3):
        before = torch.cat([each.flatten() for each in weights(wrapped)])
        with torch.autocast("cpu", torch.bfloat16):
            output = wrapped(MLP.inputs())
            loss = wrapped.loss(output, MLP.targets())
        assert output.dtype == torch.bfloat16 and loss.dtype == torch.float32
        optimizer.zero_grad()
        scaler.scale(10 * loss).backward()
        scaler.unscale_(optimizer)
        wrapped.before_step(optimizer)
        scaler.step(optimizer)
        scaler.update()
        wrapped.after_step()
        after = torch.cat([each.flatten() for each in weights(wrapped)])
        assert (after - before).norm().item() == pytest.approx(0.1, rel=1e-3)


def test_eval_and_train_reach_the_model() -> None:
    model = MLP.build().eval()
    wrapped = augpipe.regularize(model, STACK)
    assert not wrapped.training and not model.training
    wrapped.train()
    assert model.training


def test_finish_comes_once_and_again_after_more_steps() -> None:
    wrapped = augpipe.regularize(MLP.build(), [{"ema": 0.5}])
    loop(wrapped, MLP, 3)
    wrapped.finish()
    with torch.no_grad():
        wrapped.model[0].weight.zero_()
    wrapped.finish()
    assert not wrapped.model[0].weight.any()
    loop(wrapped, MLP, 1)
    with wrapped.averaged():
        expected = weights(wrapped)
    assert not equal(weights(wrapped), expected)
    wrapped.finish()
    assert equal(weights(wrapped), expected)


def test_averaged_weights_have_gradients_as_their_own_have() -> None:
    wrapped = augpipe.regularize(MLP.build(), [{"ema": 0.5}])
    loop(wrapped, MLP, 1)
    x = MLP.inputs().requires_grad_()
    with wrapped.averaged():
        wrapped(x).sum().backward()
    assert x.grad is not None


def test_weights_come_back_where_validation_raises() -> None:
    wrapped = augpipe.regularize(MLP.build(), [{"ema": 0.5}])
    loop(wrapped, MLP, 3)
    before = weights(wrapped)
    with pytest.raises(OSError), wrapped.averaged():  # noqa: PT011, PT012
        assert not equal(weights(wrapped), before)
        raise OSError
    assert equal(weights(wrapped), before)


def test_wrapping_leaves_each_part_its_mode() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8)), nn.Linear(8, 5))
    model[0].eval()
    modes = [each.training for each in model.modules()]
    for items in (["dropout"], [{"freeze_batch_norm": {"after": 5}}], ["ghost_batch_norm"]):
        wrapped = augpipe.regularize(model, items)
        assert wrapped.training and wrapped.effects[0].training
        assert [each.training for each in model.modules()] == modes
        wrapped.remove()
        assert [each.training for each in model.modules()] == modes


@pytest.mark.parametrize("place", ["", "0"])
def test_models_that_hooks_do_not_reach_are_refused(place: str) -> None:
    def compiled(module: nn.Module) -> nn.Module:
        return torch.compile(module, backend="eager")

    def in_place(module: nn.Module) -> nn.Module:
        module.compile(backend="eager")
        return module

    def scripted(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated in newer versions of PyTorch
            return torch.jit.trace(module, MLP.inputs())

    for make in (compiled, in_place, scripted):
        model = make(nn.Linear(6, 6) if place else MLP.build())
        model = nn.Sequential(model, nn.Linear(6, 5)) if place else model
        what = "its '0'" if place else "the model"
        with pytest.raises(augpipe.UsageError, match=f"^{what} is compiled: wrap the model first"):
            augpipe.regularize(model, ["dropout"])


def test_a_model_without_its_weights_is_refused() -> None:
    model = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(5))
    with pytest.raises(
        augpipe.UsageError, match=r"^its '0' has no weights yet: call the model onc"
    ):
        augpipe.regularize(model, ["dropout"])
    model(MLP.inputs())
    augpipe.regularize(model, ["l2"])


def test_what_is_no_recipe_or_criterion_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("version: 1\nregularize:\n  - dropout: {p: 0.5}\n")
    pipe = augpipe.load(path)
    (dropout,) = pipe.recipe.regularize
    given = (path, str(path), pipe, pipe.recipe, dropout, [dropout], ({"dropout": {"p": 0.5}},))
    for recipe in given:
        assert augpipe.regularize(MLP.build(), recipe).regularizers == (dropout,)
    for recipe in (None, 5, {"dropout"}, MLP.build()):
        with pytest.raises(augpipe.UsageError, match=r"^recipe must be a file, .*; got"):
            augpipe.regularize(MLP.build(), recipe)
    for recipe in (pipe, pipe.recipe):
        changed = ["regularize.0.dropout.p=0.2"]
        (other,) = augpipe.regularize(MLP.build(), recipe, overrides=changed).regularizers
        assert other.item() == {"dropout": {"p": 0.2}}
    for criterion in (None, "ce"):
        with pytest.raises(augpipe.UsageError, match=r"^criterion must be loss"):
            augpipe.regularize(MLP.build(), path, criterion)


def test_what_is_no_optimizer_and_no_metrics_is_refused() -> None:
    wrapped = augpipe.regularize(MLP.build(), ["weight_decay", "early_stopping"])
    for bad in (None, [], wrapped):
        with pytest.raises(augpipe.UsageError, match=r"^before_step takes the optimizer; got"):
            wrapped.before_step(bad)
    for metrics in (None, 0.3, [0.3]):
        with pytest.raises(augpipe.UsageError, match=r"^end_epoch takes what was measured"):
            wrapped.end_epoch(metrics)


def test_several_optimizers_before_one_after_step() -> None:
    """What one of them steps is decayed and shrunk as with one optimizer for all."""
    results = []
    items = [{"weight_decay": 0.5}, {"l1": 0.1}, "sam", "ema"]
    for several in (False, True):
        wrapped = augpipe.regularize(MLP.build(), items)
        groups = wrapped.param_groups(lr=0.1)
        cuts = [[group] for group in groups] if several else [groups]
        optimizers = [torch.optim.SGD(each) for each in cuts]
        wrapped.loss(wrapped(MLP.inputs()), MLP.targets()).backward()
        for each in optimizers:
            wrapped.before_step(each, lambda: None)
        for each in optimizers:
            each.step()
        wrapped.zero_grad()
        wrapped.after_step()
        results.append(weights(wrapped))
    assert equal(*results)


def test_share_comes_first_whatever_its_place() -> None:
    tie = {"share": {"tie": [["embedding.weight", "decoder.weight"]]}}
    for item in ({"l2": {"strength": 1.0, "on": "**"}}, {"l1": {"strength": 1.0, "on": "**"}}):
        states = []
        for items in ([item, tie], [tie, item]):
            wrapped = augpipe.regularize(LM.build(), items)
            assert [each.name() for each in wrapped.regularizers] == [next(iter(i)) for i in items]
            assert (type(wrapped.effects[0]).__name__ == "_Share") == (items[0] is tie)
            losses = loop(wrapped, LM, 2, torch.optim.SGD(wrapped.param_groups(), lr=0.1))
            states.append([torch.tensor(losses), *weights(wrapped)])
        assert equal(*states)


def test_a_failed_end_epoch_counts_for_nobody() -> None:
    both = [{"early_stopping": m} for m in ("val_loss", "val_accuracy")]
    wrapped = augpipe.regularize(MLP.build(), both)
    wrapped.end_epoch({"val_loss": 1.0, "val_accuracy": 0.5})
    with pytest.raises(augpipe.UsageError, match="have no 'val_accuracy'"):
        wrapped.end_epoch({"val_loss": 2.0})
    assert [each.waited for each in wrapped.effects] == [0, 0]
    wrapped.end_epoch({"val_loss": 2.0, "val_accuracy": 0.5})
    assert [each.waited for each in wrapped.effects] == [1, 1]


@pytest.mark.parametrize("item", ["ema", {"ema": 0.5}, {"swa": {"start": 0, "unit": "steps"}}])
def test_nothing_to_average_is_refused(item) -> None:
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6, affine=False))
    with pytest.raises(augpipe.UsageError, match=r"^(ema|swa): the model has no parameters"):
        augpipe.regularize(model, [item])


@pytest.mark.parametrize("item", ["ema", "batch_norm", "spectral_norm", "isda", "early_stopping"])
def test_a_model_converted_after_wrapping(item: str) -> None:
    model = MLP.build()
    wrapped = augpipe.regularize(model, [item])
    loop(wrapped, MLP, 1)
    wrapped.end_epoch({"val_loss": 1.0})
    model.double()
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
    loss = wrapped.loss(wrapped(MLP.inputs().double()), MLP.targets())
    loss.backward()
    wrapped.before_step(optimizer)
    optimizer.step()
    wrapped.after_step()
    wrapped.end_epoch({"val_loss": 0.5})
    wrapped.finish()
    assert loss.isfinite() and all(each.dtype == torch.float64 for each in model.parameters())


def test_finish_without_batches_changes_nothing_of_others() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 5))
    items = [{"ema": 0.5}, {"swa": {"start": 0, "unit": "steps"}}]
    wrapped = augpipe.regularize(model, items)
    loop(wrapped, MLP, 3)
    before = weights(wrapped)
    for bad in (None, 5, {"x": MLP.inputs()}):
        with pytest.raises(augpipe.UsageError, match=r"^swa: "):
            wrapped.finish(bad)
        assert equal(weights(wrapped), before)
    wrapped.finish([MLP.inputs()])
    assert not equal(weights(wrapped), before)


def test_swa_that_never_started_says_so() -> None:
    wrapped = augpipe.regularize(MLP.build(), [{"swa": 100}])
    loop(wrapped, MLP, 1)
    wrapped.end_epoch({})
    with pytest.warns(UserWarning, match=r"^swa: nothing was averaged in 1 epochs, for it starts"):
        wrapped.finish()


@pytest.mark.parametrize(
    "item", ["sam", "gradient_noise", "gradient_clipping", {"gradient_clipping": {"by": "value"}}]
)
def test_sparse_gradients_are_refused_by_name(item) -> None:
    model = nn.Sequential(nn.Embedding(11, 5, sparse=True))
    wrapped = augpipe.regularize(model, [item], lambda output, target: output.square().sum())
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
    wrapped.loss(wrapped(LM.inputs()), None).backward()
    with pytest.raises(augpipe.UsageError, match="takes no sparse gradients"):
        wrapped.before_step(optimizer, lambda: None)


def test_a_model_is_wrapped_once_until_it_is_plain_again() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    wrapped = augpipe.regularize(model, [{"dropout": 0.5}])
    with pytest.raises(UsageError, match=r"wrapped already: remove\(\) that first"):
        augpipe.regularize(model, [{"dropout": 0.5}])
    wrapped.remove()
    augpipe.regularize(model, [{"dropout": 0.5}]).remove()
    with pytest.raises(UsageError):
        augpipe.regularize(model, [{"dropout": {"on": "none"}}])
    augpipe.regularize(model, ["label_smoothing"])


def test_convnexts_recipe_decays_weights_alone() -> None:
    from torchvision.models import convnext_tiny

    model = convnext_tiny(num_classes=10, stochastic_depth_prob=0.0)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    wrapped = augpipe.regularize(model, ROOT / "configs" / "regularize" / "convnext_tiny.yaml")
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=1.0)
    for each in model.parameters():
        each.grad = torch.zeros_like(each)
    wrapped.before_step(optimizer)
    optimizer.step()
    wrapped.after_step()
    moved = {n for n, each in model.named_parameters() if not torch.equal(each, before[n])}
    kinds = (nn.Linear, nn.Conv2d)
    layers = [n for n, each in model.named_modules() if isinstance(each, kinds)]
    assert moved == {f"{name}.weight" for name in layers}


def test_all_techniques_without_a_site_are_told_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "version: 1\nregularize:\n  - dropout: {on: nonesuch, p: 0.1}\n  - label_smoothing\n"
        "  - spectral_norm: {on: nowhere}\n"
    )
    with pytest.raises(augpipe.RecipeError) as caught:
        augpipe.regularize(torch.nn.Linear(2, 2), file)
    assert [(each.place, each.path) for each in caught.value.problems] == [
        (Place(str(file), 3, 5), "regularize[0]"),
        (Place(str(file), 5, 5), "regularize[2]"),
    ]
    with pytest.raises(augpipe.RecipeError, match=r"^dropout: on: 'nonesuch' matches"):
        augpipe.regularize(torch.nn.Linear(2, 2), [{"dropout": {"on": "nonesuch", "p": 0.1}}])


@pytest.mark.parametrize("item", [{"gradient_noise": {}}, {"gradient_clipping": 1.0}])
def test_a_loop_that_leaves_a_step_out_is_told(item: Any) -> None:
    model = torch.nn.Linear(2, 2)
    wrapped = augpipe.regularize(model, [item])
    wrapped.loss(wrapped(torch.zeros(1, 2)), torch.tensor([0])).backward()
    with pytest.raises(augpipe.UsageError, match=r"needs the optimizer: call wrapped.before_step"):
        wrapped.after_step()
    with pytest.raises(augpipe.UsageError, match=r"no step was counted: call wrapped.after_step"):
        wrapped.end_epoch({})
    wrapped.before_step(torch.optim.SGD(wrapped.param_groups(), lr=0.1))
    wrapped.after_step()
    assert not wrapped.end_epoch({})
