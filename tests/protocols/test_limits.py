"""The least noise of one site alone: a floor holds in every cohort that may answer, or the study is refused."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.protocols import federation
from tests.protocols.federation import study_of

from synthfed.protocols.cohort import least_quorum
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.privacy.limits import check_floor
from synthfed.protocols.privacy.plan import make_plan
from synthfed.protocols.study import Study
from synthfed.protocols.sums import GRID, Kind, Sum, noise_shares, own_noise

NOISE = st.floats(0.3, 100)
COUNTS = Sum("counts", "statistic", 10, 1.0, 1.0, 1, 1.0)


def study(sites: int = 5, tolerated: int = 1, quorum: int | None = None, **privacy: Any) -> Study:
    names = tuple(f"s{number}" for number in range(sites))
    least = least_quorum(sites, tolerated, privacy.get("mode", "distributed"))
    return study_of(names, quorum=quorum or least, tolerated=tolerated, **privacy)


def kinds_of(*noises: float) -> list[Kind]:
    kind = federation.kind("sum")
    each = [replace(kind.sum, name=f"sum-{at}", clip_norm=0.5 + at) for at in range(len(noises))]
    return [Kind(one, noise, 64, 32) for one, noise in zip(each, noises, strict=True)]


def is_refused(terms_: Study, kinds: list[Kind]) -> bool:
    try:
        check_floor(terms_, kinds)
    except ConfigError:
        return True
    return False


def drawn_std(terms_: Study, kind: Kind, present: int) -> float:
    """Return the std, in clip norms, of what a site draws on the grid in a cohort: not by the formula under test."""
    return GRID * kind.grid_step(noise_shares(terms_, present)) / kind.sum.clip_norm


@given(
    noises=st.lists(NOISE, min_size=1, max_size=4),
    floor=st.floats(0.01, 100),
    sites=st.integers(3, 50),
    tolerated=st.integers(1, 16),
    mode=st.sampled_from(["distributed", "local"]),
)
def test_a_plan_is_refused_just_where_a_site_would_draw_less_than_the_floor_in_some_cohort(
    noises: list[float], floor: float, sites: int, tolerated: int, mode: str
) -> None:
    terms_ = study(sites, min(tolerated, sites - 2), mode=mode, sigma_floor=floor)
    kinds, cohorts = kinds_of(*noises), range(terms_.cohort.quorum, sites + 1)
    least = min(drawn_std(terms_, kind, present) for kind in kinds for present in cohorts)
    if not math.isclose(least, floor, rel_tol=1e-12):
        assert is_refused(terms_, kinds) == (least < floor)


@given(noise=NOISE, sites=st.integers(4, 49))
def test_a_sites_own_share_shrinks_as_the_roster_grows_but_not_in_local(noise: float, sites: int) -> None:
    (kind,) = kinds_of(noise)
    assert own_noise(study(sites + 1), kind) < own_noise(study(sites), kind)
    assert own_noise(study(sites, mode="local"), kind) == noise


def test_the_share_that_counts_is_that_of_the_largest_cohort_whatever_the_quorum() -> None:
    (kind,) = kinds_of(2.0)
    assert own_noise(study(10, 1, quorum=7), kind) == own_noise(study(10, 1, quorum=10), kind) == 2.0 / 3


def test_at_the_floor_itself_a_plan_is_accepted_and_without_one_always() -> None:
    assert not is_refused(study(sigma_floor=1.0), kinds_of(2.0))
    assert is_refused(study(sigma_floor=math.nextafter(1.0, 2.0)), kinds_of(2.0))
    assert not is_refused(study(), kinds_of(0.3))


def test_the_refusal_names_the_sum_with_the_least_noise_and_says_what_to_do() -> None:
    says = (
        r"^sum 'sum-1': one site alone would add noise of 0\.25 clip norms when all 5 sites take part, below "
        r"privacy\.sigma_floor = 0\.75; use privacy\.mode = \"local\", a larger cohort\.tolerated, a smaller "
        r"privacy\.epsilon or a lower floor$"
    )
    with pytest.raises(ConfigError, match=says):
        check_floor(study(sigma_floor=0.75), kinds_of(2.0, 0.5, 1.0))


def test_in_local_neither_the_mode_nor_more_bad_sites_are_advised() -> None:
    with pytest.raises(ConfigError, match=r"= 0\.75; use a smaller privacy\.epsilon or a lower floor$"):
        check_floor(study(mode="local", sigma_floor=0.75), kinds_of(0.5))


def test_planning_refuses_a_study_below_its_floor_and_plans_it_as_before_above() -> None:
    plain = make_plan(study(), [COUNTS])
    own = own_noise(study(), plain.kinds[0])
    assert make_plan(study(sigma_floor=own), [COUNTS]) == plain
    with pytest.raises(ConfigError, match=r"sum 'counts': one site alone .* below privacy\.sigma_floor"):
        make_plan(study(sigma_floor=own * 1.001), [COUNTS])


def test_what_is_advised_helps() -> None:
    (kind,) = make_plan(study(), [COUNTS]).kinds
    floor = 1.1 * own_noise(study(), kind)
    make_plan(study(sigma_floor=floor, mode="local"), [COUNTS])
    make_plan(study(sigma_floor=floor, tolerated=2), [COUNTS])
    make_plan(study(sigma_floor=floor, epsilon=1.0), [COUNTS])


@pytest.mark.parametrize("floor", [0.0, -1.0, math.inf, math.nan])
def test_a_floor_is_a_positive_number(floor: float) -> None:
    with pytest.raises(ValidationError, match="sigma_floor"):
        study(sigma_floor=floor)


def test_the_floor_is_a_term_of_the_study() -> None:
    assert len({study(sigma_floor=floor).hash for floor in (None, 0.1, 0.2)}) == 3
