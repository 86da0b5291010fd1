"""Every regularizer, as each of its rows puts it on a network, against every clause."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import yaml
from torch import Tensor, nn

import augpipe
from augpipe import recipe as recipes
from augpipe.regularizers import catalogue
from augpipe.regularizers.wrapper import Regularized
from tests.regularizers.cases import ROWS, Row

COVERED = {row.name for row in ROWS}
EACH = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)


def wrap(row: Row) -> tuple[nn.Module, Regularized]:
    model = row.net.build()
    return model, augpipe.regularize(model, [row.item])


def run(module: Callable[[Tensor], Tensor], row: Row, seed: int = 5) -> Tensor:
    torch.manual_seed(seed)
    return module(row.net.inputs())


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def step(wrapped: Regularized, row: Row, lr: float = 0.1) -> tuple[Tensor, Tensor]:
    """Does one step of training; returns the output and the loss."""
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=lr)
    torch.manual_seed(5)

    def closure() -> tuple[Tensor, Tensor]:
        optimizer.zero_grad()
        output = wrapped(row.net.inputs())
        loss = wrapped.loss(output, row.net.targets())
        loss.backward()
        return output.detach(), loss.detach()

    output, loss = closure()
    wrapped.before_step(optimizer, closure)
    optimizer.step()
    wrapped.after_step()
    return output, loss


def test_every_class_of_the_catalogue_has_a_row() -> None:
    missing = sorted(set(catalogue()) - COVERED)
    assert not missing, f"no row in tests/regularizers/rows for {', '.join(missing)}"


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_defaults_hold_and_the_method_card_is_whole(name: str) -> None:
    cls = catalogue()[name]
    for field, declared in cls.declared().items():
        info = cls.model_fields[field]
        if not info.is_required() and info.default is not None:
            assert declared.parse(info.default) == info.default, f"{name}.{field}"
        assert info.description, f"{name}.{field} has no docstring"
    card = cls.__doc__ or ""
    for part in ("Suggested", "arXiv" if "arXiv" in card else "Paper"):
        assert part in card, f"the method card of {name} lacks '{part}'"
    assert not cls.main or cls.main in cls.model_fields


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_bad_values_are_refused_by_name(name: str) -> None:
    cls = catalogue()[name]
    row = next(row for row in ROWS if row.name == name)
    good = {} if isinstance(row.item, str) else row.item[name]
    good = good if isinstance(good, dict) else {cls.main: good}
    for field, declared in cls.declared().items():
        for bad in declared.bad_values():
            with pytest.raises(augpipe.RecipeError) as caught:
                recipes.load({"version": 1, "regularize": [{name: {**good, field: bad}}]})
            assert f"{name}.{field}" in str(caught.value), f"{field}: {bad!r}"


@EACH
def test_yaml_round_trip(row: Row) -> None:
    recipe = recipes.load({"version": 1, "regularize": [row.item]})
    for defaults in (False, True):
        again = recipes.load(yaml.safe_load(recipe.dump(defaults)))
        assert again.regularize == recipe.regularize
    assert pickle.loads(pickle.dumps(recipe)) == recipe


@EACH
def test_eval_is_the_plain_model(row: Row) -> None:
    plain = row.net.build().eval()
    _, wrapped = wrap(row)
    if not wrapped.regularizers[0].keeps_eval:
        pytest.skip("differs in eval(), as its method card says")
    wrapped.eval()
    output = run(wrapped, row)
    assert torch.equal(output, run(plain, row))
    target = row.net.targets()
    assert torch.equal(wrapped.loss(output, target), wrapped.criterion(output, target))


@EACH
@pytest.mark.parametrize("training", [True, False])
def test_remove_restores_the_model_to_the_bit(row: Row, training: bool) -> None:
    plain = row.net.build().train(training)
    model = row.net.build()
    before = {name: id(each) for name, each in model.named_parameters()}
    wrapped = augpipe.regularize(model, [row.item])
    wrapped.train(training)
    assert wrapped.remove() is model
    assert hooks(model) == 0
    assert torch.equal(run(model, row), run(plain, row))
    assert {name: id(each) for name, each in model.named_parameters()} == before
    assert [*map(type, model.modules())] == [*map(type, plain.modules())]


@EACH
def test_the_state_has_the_keys_of_the_plain_model(row: Row) -> None:
    plain = row.net.build()
    model, wrapped = wrap(row)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    step(wrapped, row)
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(wrapped.state_dict())
    wrapped.load_state_dict(plain.state_dict())


@EACH
def test_it_changes_what_it_says_and_nothing_more(row: Row) -> None:
    plain = Regularized(row.net.build(), ())
    model, wrapped = wrap(row)
    expected, got = step(plain, row), step(wrapped, row)
    same = {
        "output": torch.equal(expected[0], got[0]),
        "loss": torch.equal(expected[1], got[1]),
        "weights": all(
            torch.equal(a, b)
            for a, b in zip(plain.model.parameters(), model.parameters(), strict=True)
        ),
    }
    first = next((name for name, equal in same.items() if not equal), "nothing")
    assert first == row.changes
    assert row.changes != "nothing" or row.why


@EACH
def test_a_seed_reproduces_a_run(row: Row) -> None:
    models = []
    for _ in range(2):
        model, wrapped = wrap(row)
        step(wrapped, row)
        step(wrapped, row)
        models.append(model)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


@EACH
def test_a_run_goes_on_where_it_stopped(row: Row, tmp_path) -> None:
    model, wrapped = wrap(row)
    step(wrapped, row)
    torch.save([wrapped.state_dict(), wrapped.run_state()], tmp_path / "run.pt")
    step(wrapped, row)
    other, again = wrap(row)
    weights, state = torch.load(tmp_path / "run.pt", weights_only=True)
    again.load_state_dict(weights)
    again.load_run_state(state)
    step(again, row)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@EACH
def test_a_wrapped_model_can_be_copied(row: Row) -> None:
    _, wrapped = wrap(row)
    twin = copy.deepcopy(wrapped)
    step(wrapped, row)
    step(twin, row)
    for a, b in zip(wrapped.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("row", [row for row in ROWS if row.compiles], ids=lambda row: row.id)
def test_it_compiles_to_one_graph(row: Row) -> None:
    """With the same generator state, compiled equals eager: the same noise, the same sums."""
    torch._dynamo.reset()
    _, wrapped = wrap(row)
    expected = run(wrapped, row)
    _, wrapped = wrap(row)
    compiled = torch.compile(wrapped, backend="eager", fullgraph=True)
    assert torch.equal(run(compiled, row), expected)


@EACH
def test_it_runs_under_autocast(row: Row) -> None:
    _, wrapped = wrap(row)
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.01)

    def closure() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = wrapped.loss(wrapped(row.net.inputs()), row.net.targets())
        loss.backward()

    closure()
    wrapped.before_step(optimizer, closure)
    optimizer.step()
    wrapped.after_step()
    assert all(bool(each.isfinite().all()) for each in wrapped.parameters())


@pytest.mark.parametrize(
    "name", sorted(n for n, cls in catalogue().items() if "on" in cls.model_fields)
)
def test_no_site_is_an_error_with_near_misses(name: str) -> None:
    row = next(row for row in ROWS if row.name == name)
    own = {} if isinstance(row.item, str) else row.item[name]
    own = own if isinstance(own, dict) else {catalogue()[name].main: own}
    model = row.net.build()
    known = next(n for n, _ in model.named_modules() if n)
    with pytest.raises(augpipe.UsageError, match=r"matches no .*did you mean") as caught:
        augpipe.regularize(model, [{name: {**own, "on": f"{known}x"}}])
    assert known in str(caught.value)
    assert hooks(model) == 0
