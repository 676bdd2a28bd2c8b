"""From a promise to the noise of every sum. `make_plan` takes about a second, so plans are shared."""

import math
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats  # type: ignore[import-untyped]
from tests.protocols import federation
from tests.protocols.federation import DIM, NAMES, terms

from synthfed.protocols.errors import ConfigError, UnsupportedMechanism
from synthfed.protocols.privacy.accountant import OVERFLOW_SHARE, epsilon, overflow_probability
from synthfed.protocols.privacy.limits import MOST_NUMBERS
from synthfed.protocols.privacy.plan import (
    Plan,
    accounted_multiplier,
    box,
    charge,
    epsilon_by_sites,
    largest_entry,
    make_plan,
    slots,
)
from synthfed.protocols.study import Study
from synthfed.protocols.sums import GRID, MAX_DIM, Kind, Sum, answer_time_s, noise_shares

STEPS = Sum("steps", "gradient", 1000, 1.0, 0.1, 100, 1.0)
COUNTS = Sum("counts", "statistic", 10, 1.0, 1.0, 2, 0.25)


def study(names: tuple[str, ...] = NAMES, ceiling: float | None = None, **changes: Any) -> Study:
    fields = terms(names, **changes)
    fields["cohort"]["epsilon_if_secagg_fails_at_most"] = ceiling
    return Study.model_validate(fields)


@pytest.fixture(scope="module")
def distributed() -> Plan:
    return make_plan(study(), [STEPS, COUNTS])


@pytest.fixture(scope="module")
def local() -> Plan:
    return make_plan(study(mode="local"), [STEPS])


def spent(terms_: Study, plan: Plan) -> float:
    return epsilon([charge(kind, terms_, kind.sum.rounds) for kind in plan.kinds], terms_.privacy.delta)


# The promise.


def test_a_plan_keeps_its_promise_and_spends_nearly_all_of_it(distributed: Plan, local: Plan) -> None:
    for plan in (distributed, local):
        assert 0.97 * 2.0 < plan.epsilon <= 2.0


def test_a_plans_epsilon_is_that_of_all_its_caps_together(distributed: Plan) -> None:
    assert spent(study(), distributed) == distributed.epsilon


def test_every_party_gets_the_same_plan(local: Plan) -> None:
    assert make_plan(study(mode="local"), [STEPS]) == local


def test_a_kind_is_found_by_its_name(distributed: Plan) -> None:
    found = distributed.kind("counts")
    assert found is not None
    assert found.sum == COUNTS
    assert distributed.kind("probe") is None


def test_a_larger_share_buys_less_noise(distributed: Plan) -> None:
    more = make_plan(study(), [STEPS, replace(COUNTS, share=4.0)])
    before, after = distributed.kinds[1], more.kinds[1]
    assert after.noise_multiplier < before.noise_multiplier
    assert more.kinds[0].noise_multiplier > distributed.kinds[0].noise_multiplier


def test_in_distributed_epsilon_rises_with_every_bad_site_up_to_the_failure(distributed: Plan) -> None:
    bad, values = zip(*distributed.curve, strict=True)
    assert bad == (1, 2, 3, 4)
    assert values[0] == distributed.epsilon
    assert values[-1] == distributed.epsilon_if_secagg_fails
    assert list(values) == sorted(set(values))


def test_when_all_others_are_bad_one_sites_own_share_is_accounted(distributed: Plan) -> None:
    own = math.sqrt(1 / (5 - 1))
    events = [charge(kind, study(), kind.sum.rounds) for kind in distributed.kinds]
    alone = [replace(each, noise_multiplier=each.noise_multiplier * own) for each in events]
    assert distributed.epsilon_if_secagg_fails == epsilon(alone, study().privacy.delta)


def test_in_local_no_other_site_can_take_away_noise(local: Plan) -> None:
    assert local.curve == tuple((bad, local.epsilon) for bad in (1, 2, 3, 4))
    assert local.epsilon_if_secagg_fails == local.epsilon


def test_a_ceiling_on_epsilon_if_secure_aggregation_fails_refuses_a_weaker_plan(distributed: Plan) -> None:
    failing = distributed.epsilon_if_secagg_fails
    with pytest.raises(ConfigError, match=r"if secure aggregation failed, above cohort\.epsilon_if_secagg"):
        make_plan(study(ceiling=failing * 0.99), [STEPS, COUNTS])
    assert make_plan(study(ceiling=failing), [STEPS, COUNTS]) == distributed


def test_mode_local_is_advised_only_where_it_is_not_the_mode_already(distributed: Plan, local: Plan) -> None:
    ceiling = min(distributed.epsilon_if_secagg_fails, local.epsilon_if_secagg_fails) / 2
    with pytest.raises(ConfigError, match=r'use privacy\.mode = "local" or a smaller privacy\.epsilon$'):
        make_plan(study(ceiling=ceiling), [STEPS, COUNTS])
    with pytest.raises(ConfigError, match=r"; use a smaller privacy\.epsilon$"):
        make_plan(study(ceiling=ceiling, mode="local"), [STEPS])


def test_a_promise_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.epsilon = 1e-06 with privacy\.delta = 1e-06 cannot be met"):
        make_plan(study(epsilon=1e-6), [STEPS])


def test_noise_never_falls_below_its_floor_however_large_the_promise() -> None:
    plan = make_plan(study(epsilon=100.0, mode="local"), [replace(COUNTS, rounds=1)])
    assert plan.kinds[0].noise_multiplier == 0.3
    assert plan.epsilon < 100


def test_a_promise_that_the_first_guess_of_the_noise_breaks_is_still_kept() -> None:
    # One rarely sampled release: the central limit theorem behind the guess is far off.
    few = replace(STEPS, rounds=1, sample_rate=0.001)
    plan = make_plan(study(epsilon=0.05, mode="local"), [few])
    assert plan.epsilon <= 0.05


# What is accounted.


def test_the_accounted_noise_is_a_little_less_than_the_noise_that_is_drawn(distributed: Plan) -> None:
    for kind in distributed.kinds:
        accounted = accounted_multiplier(kind, study())
        assert 0.999 * kind.noise_multiplier < accounted < kind.noise_multiplier


def test_more_coordinates_slots_or_a_smaller_quorum_are_accounted_as_less_noise() -> None:
    kind = federation.kind("steps")
    base = accounted_multiplier(kind, study())
    assert accounted_multiplier(replace(kind, sum=replace(kind.sum, dim=10**6)), study()) < base
    assert accounted_multiplier(replace(kind, slots=10**5), study()) < base
    assert accounted_multiplier(kind, study(quorum=5)) > base


def test_the_accounted_noise_is_what_docs_adr_0003_derives() -> None:
    kind = replace(federation.kind("steps"), noise_multiplier=2.0)
    sensitivity = 1 + (2 * DIM + 2 * 64**2) * 2.0**-53 + 2.0 * math.sqrt(DIM) / (math.sqrt(4 - 1) * 2**18)
    left = accounted_multiplier(kind, study()) * sensitivity / 2.0
    assert left**2 == pytest.approx(1 - 16 / 2**36, rel=1e-13)


def test_in_distributed_only_the_sites_beyond_the_tolerated_share_the_noise() -> None:
    assert noise_shares(study(), 5) == 4
    assert noise_shares(study(mode="local"), 5) == 1


def test_the_shares_of_the_honest_sites_add_up_to_the_promised_noise() -> None:
    kind = federation.kind("steps")
    for honest in (1, 3, 4):
        assert math.sqrt(honest) * GRID * kind.grid_step(honest) == pytest.approx(kind.noise_multiplier)


# Slots and rings.


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.9])
@pytest.mark.parametrize("allowance", [1e-6, 1e-12])
def test_slots_are_whole_tiles_that_overflow_no_more_than_allowed_and_one_step_less_would(
    rate: float, allowance: float
) -> None:
    terms_, each = study(units_per_site=20_000), replace(STEPS, sample_rate=rate)
    count = slots(terms_, each, allowance)
    multiple = 64 if count <= 512 else 512  # so that every batch of a kind has one shape
    assert count % multiple == 0
    assert float(stats.binom.sf(count, 20_000, rate)) <= overflow_probability(20_000, rate, count) <= allowance
    assert overflow_probability(20_000, rate, count - multiple) > allowance


def test_without_sampling_every_unit_has_a_slot() -> None:
    assert slots(study(units_per_site=1000), COUNTS, 1e-12) == 1024
    assert slots(study(units_per_site=1), COUNTS, 1e-12) == 64


def test_a_tiny_site_has_one_tile_of_slots() -> None:
    assert slots(study(units_per_site=3), STEPS, 1e-12) == 64


def test_all_rounds_together_overflow_within_the_part_of_delta_set_aside() -> None:
    terms_ = study(units_per_site=10_000_000, mode="local")  # so many that rounding up to tiles hides nothing
    (kind,) = make_plan(terms_, [replace(STEPS, rounds=2)]).kinds
    cost, cost_of_one_batch_less = (
        2 * (1 + math.exp(2.0)) * overflow_probability(10_000_000, 0.1, count)
        for count in (kind.slots, kind.slots - 512)
    )
    assert cost <= OVERFLOW_SHARE * 1e-6 < cost_of_one_batch_less


@pytest.mark.parametrize(("units", "bits"), [(1000, 32), (1_000_000, 64)])
def test_the_narrow_ring_is_taken_where_a_full_sum_fits(units: int, bits: int) -> None:
    terms_ = study(units_per_site=units, mode="local", epsilon=1.0)
    plan = make_plan(terms_, [replace(COUNTS, rounds=1)])
    (kind,) = plan.kinds
    assert kind.ring_bits == bits
    assert largest_entry(terms_, kind) <= box(terms_, bits)
    assert bits == 32 or largest_entry(terms_, kind) > box(terms_, 32)


@pytest.mark.parametrize("bits", [32, 64])
def test_sums_of_full_boxes_and_sixteen_deviations_of_noise_do_not_wrap(bits: int) -> None:
    for names in (NAMES, tuple(f"s{i}" for i in range(50))):
        terms_ = study(names, quorum=len(names))
        assert len(names) * box(terms_, bits) + 16 * GRID * math.sqrt(len(names)) <= 2 ** (bits - 1)
        assert box(terms_, bits) <= 2**52


# Declarations.


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 0},
        {"dim": MAX_DIM + 1},
        {"clip_norm": 0.0},
        {"clip_norm": math.inf},
        {"clip_norm": math.nan},
        {"sample_rate": 0.0},
        {"sample_rate": 1.5},
        {"sample_rate": math.nan},
        {"rounds": 0},
        {"share": 0.0},
        {"share": math.inf},
        {"share": math.nan},
        {"coins": -1},
        {"coins": 2**16 + 1},
    ],
)
def test_a_sum_that_could_not_be_bounded_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(
        UnsupportedMechanism, match="sum 'steps': dim, clip_norm, sample_rate, rounds, share, coins or steps"
    ):
        replace(STEPS, **change)


def test_a_statistic_cannot_ask_for_coins_that_it_would_not_be_given() -> None:
    with pytest.raises(UnsupportedMechanism, match=f"sum {COUNTS.name!r}: a statistic has no coins; declare 0"):
        replace(COUNTS, coins=1)
    assert replace(STEPS, coins=1).coins == 1


@pytest.mark.parametrize("excess", [0, 1])
def test_a_sum_that_needs_more_coins_in_a_round_than_a_site_can_draw_is_refused(excess: int) -> None:
    terms_ = study(units_per_site=1024)
    each = replace(STEPS, sample_rate=1.0, rounds=1, coins=MOST_NUMBERS // 1024 + excess)
    if not excess:
        assert make_plan(terms_, [each]).kinds[0].slots * each.coins == MOST_NUMBERS
        return
    with pytest.raises(UnsupportedMechanism, match=r"sum 'steps': 16385 coins for each of 1024 slots .* fewer coins"):
        make_plan(terms_, [each])


def test_a_sum_cannot_have_the_name_of_the_probe() -> None:
    with pytest.raises(UnsupportedMechanism, match="'probe': the name is reserved"):
        replace(STEPS, name="probe")


@pytest.mark.parametrize("sums", [[], [STEPS, STEPS]], ids=["none", "two of one name"])
def test_a_plan_needs_sums_with_names_of_their_own(sums: list[Sum]) -> None:
    with pytest.raises(UnsupportedMechanism, match="at least one sum, each under a name of its own"):
        make_plan(study(), sums)


def test_a_sum_of_an_unknown_family_or_with_a_malformed_name_is_refused() -> None:
    with pytest.raises(UnsupportedMechanism, match="family 'median' is not known"):
        replace(STEPS, family="median")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedMechanism, match="use lower-case letters"):
        replace(STEPS, name="No Name")


def test_a_declaration_names_everything_but_the_share() -> None:
    kind = Kind(replace(STEPS, payload=(("w", (2, 3)),)), 1.0, 64, 32)
    fields = kind.declaration()
    assert fields["payload"] == [["w", [2, 3]]]
    assert set(fields) == {
        "name", "family", "dim", "clip_norm", "sample_rate", "rounds", "payload", "coins",
        "noise_multiplier", "slots", "ring_bits", "grid",
    }  # fmt: skip


def test_a_statistic_has_an_answer_time_of_its_own() -> None:
    terms_ = study(answer_time_s=0.5, statistic_time_s=7.0)
    assert answer_time_s(terms_, "gradient") == 0.5
    assert answer_time_s(terms_, "statistic") == 7.0


# A unit that several sites hold.


@pytest.fixture(scope="module")
def shared() -> Plan:
    return make_plan(study(sites_per_unit=2), [STEPS, COUNTS])


def test_a_promise_to_a_unit_at_two_sites_is_kept_with_more_noise(distributed: Plan, shared: Plan) -> None:
    assert 0.9 * 2.0 < shared.epsilon <= 2.0
    for kind, alone in zip(shared.kinds, distributed.kinds, strict=True):
        assert kind.noise_multiplier > alone.noise_multiplier
    assert spent(study(sites_per_unit=2), shared) < shared.epsilon  # what one site's ledger counts


def test_epsilon_is_told_for_a_unit_at_one_two_and_three_sites(distributed: Plan, shared: Plan) -> None:
    told = dict(epsilon_by_sites(study(), distributed))
    assert list(told) == [1, 2, 3]
    assert told[1] == distributed.epsilon
    assert told[3] > told[2] > 1.5 * told[1]
    assert dict(epsilon_by_sites(study(sites_per_unit=2), shared))[2] == shared.epsilon


def test_each_of_the_sites_that_hold_a_unit_may_overflow(distributed: Plan) -> None:
    kinds = {each: make_plan(study(sites_per_unit=each, mode="local"), [STEPS]).kinds[0] for each in (1, 3)}
    assert kinds[3].slots >= kinds[1].slots


def test_where_the_slots_overflow_too_often_for_more_sites_no_epsilon_is_told() -> None:
    """Slots come in tiles of 64, so the bound is broken by hand: one tile fewer than the plan wants."""
    plan = make_plan(study(), [STEPS])
    (kind,) = plan.kinds
    tight = replace(plan, kinds=(replace(kind, slots=kind.slots - 64),))
    assert all(math.isinf(value) for _, value in epsilon_by_sites(study(), tight))


def test_a_sum_whose_messages_would_not_fit_into_a_frame_is_refused() -> None:
    with pytest.raises(UnsupportedMechanism, match="do not fit into one message"):
        make_plan(study(), [replace(STEPS, dim=MAX_DIM, payload=(("weights", (2, MAX_DIM)),))])
