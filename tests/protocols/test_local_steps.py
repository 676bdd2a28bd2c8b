"""Several local steps in one round: where they are allowed, what they cost, and that their sum fits into a word."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.protocols import federation as fed
from tests.protocols.federation import DIM, NAMES, Federation, study_of

from synthfed.protocols.errors import ConfigError, UnsupportedMechanism
from synthfed.protocols.privacy.accountant import epsilon
from synthfed.protocols.privacy.plan import Plan, box, charge, largest_entry, make_plan
from synthfed.protocols.secagg.aggregator import SumCorrupt
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.sums import GRID, MAX_STEPS, Kind, Sum

ONE_BY_ONE = Sum("steps", "gradient", 1000, 1.0, 0.1, 100, 1.0)
BY_FIVE = replace(ONE_BY_ONE, rounds=20, steps=5)


@pytest.fixture(scope="module")
def local() -> Plan:
    return make_plan(study_of(mode="local"), [BY_FIVE])


def test_in_distributed_several_steps_are_refused_by_field_sum_and_reason() -> None:
    with pytest.raises(
        ConfigError, match=r"^privacy\.mode: .*'steps' asks for 5: .*other sites' noise does not protect"
    ):
        make_plan(study_of(), [BY_FIVE])


def test_steps_of_one_round_cost_what_as_many_rounds_cost(local: Plan) -> None:
    plain = make_plan(study_of(mode="local"), [ONE_BY_ONE])
    assert local.kinds == (replace(plain.kinds[0], sum=BY_FIVE),)
    assert (local.epsilon, local.curve) == (plain.epsilon, plain.curve)


def test_a_round_is_charged_with_all_of_its_steps(local: Plan) -> None:
    terms, (kind,) = study_of(mode="local"), local.kinds
    assert charge(kind, terms, 1).count == 5
    assert charge(kind, terms, 20).count == 100
    assert epsilon([charge(kind, terms, 1)] * 20, terms.privacy.delta) == local.epsilon


def test_every_step_may_overflow_its_slots() -> None:
    terms = study_of(mode="local", units_per_site=1_000_000)  # so many that rounding up to tiles hides nothing
    one, other = (make_plan(terms, [replace(ONE_BY_ONE, rounds=1, steps=steps)]).kinds[0] for steps in (1, 1000))
    assert one.slots < other.slots == make_plan(terms, [replace(ONE_BY_ONE, rounds=1000)]).kinds[0].slots


def test_a_statistic_has_one_step() -> None:
    with pytest.raises(UnsupportedMechanism, match="sum 'counts': a statistic has one step in a round"):
        Sum("counts", "statistic", 10, 1.0, 1.0, 2, 1.0, steps=2)


@pytest.mark.parametrize("steps", [0, -1, MAX_STEPS + 1])
def test_a_number_of_steps_out_of_range_is_refused(steps: int) -> None:
    with pytest.raises(UnsupportedMechanism, match=r"sum 'steps': .*or steps is out of range"):
        replace(ONE_BY_ONE, steps=steps)


@pytest.mark.parametrize("count", ["dim", "rounds", "coins", "steps"])
def test_what_is_counted_is_whole(count: str) -> None:
    half: dict[str, Any] = {count: 2.5}
    with pytest.raises(UnsupportedMechanism, match="no whole number where it counts"):
        replace(ONE_BY_ONE, **half)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("steps", [1, 5, MAX_STEPS])
def test_all_steps_of_all_sites_at_the_edge_of_the_box_with_sixteen_deviations_of_noise_do_not_wrap(
    bits: int, steps: int
) -> None:
    for names in (NAMES[:2], NAMES):
        edge, parts = box(study_of(names, mode="local", quorum=len(names)), bits, steps), len(names) * steps
        assert parts * edge + 16 * GRID * math.sqrt(parts) <= 2 ** (bits - 1)
        assert edge <= 2**52


@pytest.mark.parametrize(("steps", "bits"), [(1, 32), (50, 64)])
def test_the_narrow_ring_is_taken_where_the_full_sums_of_all_steps_fit(steps: int, bits: int) -> None:
    terms = study_of(mode="local")
    (kind,) = make_plan(terms, [replace(ONE_BY_ONE, rounds=1, sample_rate=1.0, steps=steps)]).kinds
    assert kind.ring_bits == bits
    assert largest_entry(terms, kind) <= steps * box(terms, bits, steps)
    assert bits == 32 or largest_entry(terms, kind) > steps * box(terms, 32, steps)


def test_the_number_of_steps_is_pinned_and_one_step_leaves_earlier_policies_as_they_were(local: Plan) -> None:
    (kind,) = local.kinds
    single = replace(kind, sum=replace(kind.sum, steps=1))
    assert kind.declaration() == single.declaration() | {"steps": 5}
    assert "steps" not in single.declaration()
    hashes = {Policy(study_of(mode="local"), replace(local, kinds=(each,)), b"").hash for each in (kind, single)}
    assert len(hashes) == 2


@pytest.mark.parametrize(("steps", "is_taken"), [(1, False), (25, True)])
def test_the_coordinator_takes_the_noise_of_all_steps_for_noise_and_no_more(steps: int, is_taken: bool) -> None:
    """Eighty deviations of one step's noise, sixteen of those of 25 steps', beyond what records can add."""
    terms, kind = study_of(mode="local"), fed.kind("steps")
    kind = Kind(replace(kind.sum, steps=steps), kind.noise_multiplier, kind.slots, 64)
    active = Federation(pinned=Policy(terms, Plan((kind,), 1.0, 1.0, ((1, 1.0),)), b"code")).active()
    far = largest_entry(terms, kind) + 80 * GRID / math.sqrt(len(NAMES))
    values = {name: np.full(DIM, 0, dtype=np.int64) for name in NAMES}
    for name in NAMES:
        values[name][0] = math.floor(far) - 1
    active.collect(active.aggregator.round(NAMES, "steps", b""), values)
    if is_taken:
        assert active.aggregator.total()[0] == sum(each[0] for each in values.values())
        return
    with pytest.raises(SumCorrupt):
        active.aggregator.total()
