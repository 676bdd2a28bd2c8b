"""The conformance kit: a model that keeps every promise passes, and each check notices its own violation."""

from typing import Any

import pytest

from synthfed.plugins.models.tabular_gan import TabularGan
from synthfed.plugins.testing import Conformance, check_model, conformance
from synthfed.plugins.testing.checks import CHECKS

from .toy_model import Toy
from .wrong_models import ALL

SMALL: dict[str, Any] = {"bins": 6, "fit_steps": 20, "fakes": 64, "generator_hidden": 16, "critic_hidden": 8}


@pytest.mark.parametrize("check", conformance(Toy), ids=str)
def test_a_model_that_keeps_every_promise_passes(check: Conformance) -> None:
    check()


@pytest.mark.parametrize("check", conformance(TabularGan, options=SMALL), ids=str)
def test_the_table_gan_keeps_the_contract(check: Conformance) -> None:
    check()


@pytest.mark.parametrize(("name", "wrong"), ALL, ids=[name for name, _ in ALL])
def test_a_check_notices_its_own_violation_and_no_other_check_does(name: str, wrong: type) -> None:
    assert set(check_model(wrong, kinds=["a table of numbers"]).failed()) == {name}


def test_there_are_enough_checks_and_each_has_a_violation_of_its_own() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names) >= 40
    assert sum(check.is_privacy for check in CHECKS) >= 12
    assert {name for name, _ in ALL} == set(names)
