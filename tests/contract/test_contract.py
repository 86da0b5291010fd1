"""Every op, as each of its rows builds it, against every clause of the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from augpipe.ops import catalogue
from augpipe.ops.base import Op
from tests.cases import CASES, Case
from tests.contract.clauses import CLAUSES, applies
from tests.harness import build

COVERED = {case.op for case in CASES}


def test_every_class_of_the_catalogue_has_a_row() -> None:
    missing = sorted(set(catalogue()) - COVERED)
    assert not missing, f"no row in tests/rows for {', '.join(missing)}"
    assert set(catalogue()) >= COVERED


def _op(case: Case) -> Op:
    (op,) = build(case.item, section=case.section)
    return op


@pytest.mark.parametrize("clause", CLAUSES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_contract(case: Case, clause: Callable[[Op], None]) -> None:
    op = _op(case)
    if applies(clause, op):
        clause(op)


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_defaults_hold(name: str) -> None:
    """A default is itself a value that the declaration allows, in its normal form."""
    cls = catalogue()[name]
    for field, declared in cls.declared().items():
        info = cls.model_fields[field]
        if not info.is_required() and info.default is not None:
            assert declared.parse(info.default) == info.default, f"{name}.{field}"
        assert info.description, f"{name}.{field} has no docstring"
    assert cls.__doc__ and cls.__doc__.strip()
    assert not cls.main or cls.main in cls.model_fields
