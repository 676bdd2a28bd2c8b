"""The conformance kit: a model that keeps every promise passes, and each check notices its own violation."""

import time
from pathlib import Path

import pytest

from synthfed.plugins.testing import Conformance, check_model, conformance
from synthfed.plugins.testing.checks import CHECKS
from synthfed.protocols.errors import ConfigError

from .toy_model import Toy
from .wrong_memories import KEEPING
from .wrong_models import DECLARATIONS, at_coordinator
from .wrong_private_parts import ENCODINGS, GRADIENTS, STATISTICS
from .wrong_trainers import SAMPLING, TRAINING

ALL = [*DECLARATIONS, *ENCODINGS, *STATISTICS, *GRADIENTS, *KEEPING, *TRAINING, *SAMPLING]


@pytest.mark.parametrize("check", conformance(Toy), ids=str)
def test_a_model_that_keeps_every_promise_passes(check: Conformance) -> None:
    check()


@pytest.mark.parametrize(("name", "wrong"), ALL, ids=[name for name, _ in ALL])
def test_a_check_notices_its_own_violation_and_no_other_check_does(name: str, wrong: type) -> None:
    assert set(check_model(wrong, kinds=["a table of numbers"]).failed()) == {name}


def test_there_are_enough_checks_and_each_has_a_violation_of_its_own() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names) >= 40
    assert sum(check.is_privacy for check in CHECKS) >= 12
    assert {name for name, _ in ALL} == set(names)


WITH_FAULT = at_coordinator(progress=lambda self: {"loss": float("nan")})
NUMBERS = ["a table of numbers"]


def outcomes(plugin: type, waivers: dict[str, str]) -> dict[str, str]:
    return {each.check: each.outcome for each in check_model(plugin, kinds=NUMBERS, waivers=waivers).results}


def test_a_waiver_with_a_reason_excuses_a_check_and_is_shown() -> None:
    report = check_model(WITH_FAULT, kinds=NUMBERS, waivers={"progress-is-numbers": "the loss starts undefined"})
    assert report.is_conformant
    assert "waived: progress-is-numbers (a table of numbers): the loss starts undefined" in str(report)


def test_what_builds_on_a_waived_check_is_excused_with_it_and_nothing_else_is() -> None:
    wrong = at_coordinator(ask=lambda self, remaining: None)
    assert outcomes(wrong, {})["a-wrong-checkpoint-is-refused"] == "not asked"
    found = outcomes(wrong, {"trains-to-the-end": "trains elsewhere"})
    assert found["trains-to-the-end"] == found["a-wrong-checkpoint-is-refused"] == "waived"
    assert found["statistic-repeats"] == "passed"


def test_a_waiver_that_is_not_needed_anywhere_fails() -> None:
    report = check_model(Toy, waivers={"progress-is-numbers": "no reason at all"})
    assert report.failed() == ("progress-is-numbers",)
    assert "waiver is not needed" in str(report)


def test_a_waiver_that_one_kind_of_data_needs_does_not_fail_on_the_others() -> None:
    report = check_model(
        at_coordinator(progress=lambda self: {"loss": float("nan") if "x0" in self.model.names else 0.0}),
        waivers={"progress-is-numbers": "undefined without categories"},
    )
    assert report.is_conformant
    assert {each.outcome for each in report.results if each.check == "progress-is-numbers"} == {"passed", "waived"}


@pytest.mark.parametrize(
    ("waivers", "message"),
    [({"no-such-check": "because"}, "'no-such-check' is no check"), ({"shares-are-whole": " "}, "gives no reason")],
)
def test_a_waiver_names_a_check_and_gives_a_reason(waivers: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_model(Toy, waivers=waivers)


def test_a_plugin_that_takes_none_of_the_data_cannot_be_checked() -> None:
    with pytest.raises(ConfigError, match=r"Toy: takes none of the kit's kinds.*images with a label.*array"):
        conformance(Toy, kinds=["images with a label"])
    with pytest.raises(ConfigError, match="'tables' is not one of 'a table of mixed columns'"):
        conformance(Toy, kinds=["tables"])


def test_a_kind_that_is_named_and_not_taken_is_told_and_not_left_out() -> None:
    with pytest.raises(ConfigError, match=r"Toy: does not take a kind of data that was named \(images with a label: "):
        conformance(Toy, kinds=["a table of numbers", "images with a label"])


def test_a_failing_check_fails_its_test_with_its_sentence() -> None:
    checks = {str(each): each for each in conformance(WITH_FAULT, kinds=NUMBERS)}
    with pytest.raises(AssertionError, match="failed: progress-is-numbers: progress 'loss' is nan"):
        checks["progress-is-numbers-a-table-of-numbers"]()


def test_the_checks_of_one_plugin_on_one_kind_of_data_take_little_time() -> None:
    check_model(Toy, kinds=NUMBERS)  # what is loaded at first use
    start = time.process_time()
    check_model(Toy, kinds=NUMBERS)
    assert time.process_time() - start < 4.0


def test_the_guide_lists_every_check_with_its_promise() -> None:
    guide = (Path(__file__).parents[2] / "docs/plugin-guide.md").read_text(encoding="utf-8")
    listed = [line for line in guide.splitlines() if line.startswith("| `")]
    rows = [f"| `{check.name}`{' *' if check.is_privacy else ''} | {check.promise} |" for check in CHECKS]
    assert listed[-len(rows) :] == rows
    assert f"asks the kit {len(CHECKS)} checks" in guide
