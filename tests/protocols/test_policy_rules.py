"""The rules of who may be bad and who must be present, as a study's loader enforces them."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.protocols.federation import terms

from synthfed.protocols.cohort import Cohort, Site, least_quorum, least_tolerated
from synthfed.protocols.study import Study
from synthfed.protocols.sums import noise_shares

MODES = ("distributed", "local")
NAMES = tuple("abcdefghijkl")


def fields(controllers: Sequence[str], tolerated: int, quorum: int, mode: str = "distributed") -> dict[str, Any]:
    """Return a study's fields with one site for each controller; an empty one is the site's own."""
    found = terms(NAMES[: len(controllers)], tolerated=tolerated, quorum=quorum, mode=mode)
    for site, controller in zip(found["cohort"]["sites"], controllers, strict=True):
        site["controller"] = controller
    return found


def load(controllers: Sequence[str], tolerated: int, quorum: int, mode: str = "distributed") -> Study:
    return Study.model_validate(fields(controllers, tolerated, quorum, mode))


def problem(controllers: Sequence[str], tolerated: int, quorum: int, mode: str = "distributed") -> str:
    with pytest.raises(ValidationError) as caught:
        load(controllers, tolerated, quorum, mode)
    return str(caught.value)


# Two and three sites.


@pytest.mark.parametrize("quorum", [1, 2, 3])
@pytest.mark.parametrize("tolerated", [0, 1, 2])
def test_two_sites_cannot_share_noise_and_are_told_to_use_local(tolerated: int, quorum: int) -> None:
    says = problem(["", ""], tolerated, quorum)
    if tolerated and quorum == 2:
        assert 'use mode = "local"' in says


def test_two_sites_can_take_part_in_local_where_both_must_be_present() -> None:
    study = load(["", ""], 1, 2, "local")
    assert noise_shares(study, 2) == 1  # each adds the whole noise
    assert "cohort.quorum" in problem(["", ""], 1, 1, "local")


def test_three_sites_tolerate_one_and_need_all_three() -> None:
    study = load(["", "", ""], 1, 3)
    assert noise_shares(study, 3) == 2
    assert "cohort.quorum must be at least 3" in problem(["", "", ""], 1, 2)
    for tolerated in (2, 3):
        assert 'use mode = "local"' in problem(["", "", ""], tolerated, 3)
    assert "tolerated" in problem(["", "", ""], 0, 3)


def test_three_sites_of_which_two_have_one_controller_cannot_share_noise() -> None:
    for tolerated in (1, 2):
        assert problem(["x", "x", ""], tolerated, 3)
    assert load(["x", "x", ""], 1, 3, "local").privacy.mode == "local"


def test_three_sites_in_local_can_do_without_one() -> None:
    assert load(["", "", ""], 1, 2, "local").cohort.quorum == 2


# Controllers.


def test_a_controller_may_run_as_many_sites_as_are_tolerated_and_no_more() -> None:
    for count in (1, 2, 3):
        controllers = ["x"] * count + [""] * (8 - count)
        assert load(controllers, count, 6)
        if count > 1:
            assert f"'x' runs {count} sites" in problem(controllers, count - 1, 6)


def test_the_largest_of_several_controllers_counts() -> None:
    controllers = ["x", "x", "y", "y", "y", "", "", ""]
    assert "'y' runs 3 sites" in problem(controllers, 2, 6)
    assert load(controllers, 3, 6)


def test_sites_without_a_controller_are_not_one_controllers() -> None:
    assert load([""] * 8, 2, 6)
    assert least_tolerated(load([""] * 8, 2, 6).cohort.sites) == 2


@given(
    controllers=st.lists(st.sampled_from(["", "", "", "x", "y", "z"]), min_size=2, max_size=12),
    tolerated=st.integers(0, 12),
    quorum=st.integers(0, 13),
    mode=st.sampled_from(MODES),
)
def test_a_study_loads_exactly_when_every_rule_holds(
    controllers: list[str], tolerated: int, quorum: int, mode: str
) -> None:
    count = len(controllers)
    largest = max([n for name, n in Counter(controllers).items() if name] or [1])
    least = -(-2 * count // 3)
    allowed = tolerated >= 1 and 2 <= quorum <= count and quorum >= least
    if mode == "distributed":
        allowed = allowed and largest <= tolerated and quorum >= tolerated + 2 <= count
    if not allowed:
        problem(controllers, tolerated, quorum, mode)
        return
    study = load(controllers, tolerated, quorum, mode)
    assert study.cohort.roster == NAMES[:count]
    if mode == "distributed":
        # What the rules are for: with any one controller bad, two honest sites' noise is in every cohort.
        assert quorum - largest >= 2
        assert all(noise_shares(study, present) >= 2 for present in range(quorum, count + 1))


@given(controllers=st.lists(st.sampled_from(["", "x", "y"]), min_size=2, max_size=12))
def test_the_defaults_load_or_the_roster_fits_local_only(controllers: list[str]) -> None:
    sites = [Site(id=name, controller=controller) for name, controller in zip(NAMES, controllers, strict=False)]
    tolerated = least_tolerated(sites)
    assert tolerated >= max(1, (len(sites) - 1) // 3)
    assert all(controllers.count(name) <= tolerated for name in controllers if name)
    fits = len(sites) >= tolerated + 2
    mode = "distributed" if fits else "local"
    assert load(controllers, tolerated, least_quorum(len(sites), tolerated, mode), mode)  # type: ignore[arg-type]
    if not fits:
        assert 'use mode = "local"' in problem(controllers, tolerated, len(sites))


def test_a_quorum_above_the_roster_is_refused() -> None:
    with pytest.raises(ValidationError, match="quorum is 4 but the roster has 3 sites"):
        Cohort(tolerated=1, quorum=4, sites=tuple(Site(id=name) for name in "abc"))


# Who counts as one.


def test_a_site_that_names_another_as_its_controller_counts_with_it() -> None:
    assert "controller 'b' runs 2 sites" in problem(["b", "", "", ""], 1, 3)


@pytest.mark.parametrize("spelt", ["north trust", "NORTH TRUST", " North  Trust ", "North\tTrust"])
def test_spelling_makes_no_second_controller(spelt: str) -> None:
    assert "runs 2 sites" in problem(["North Trust", spelt, "", ""], 1, 3)


def test_sites_of_the_coordinators_operator_are_bad_always_and_come_on_top() -> None:
    operated = fields(["trust", "trust", "lab", "", ""], 2, 4)
    operated["cohort"]["operator"] = "Lab"
    with pytest.raises(ValidationError, match="runs 2 sites and the coordinator's operator 1 more; raise it to 3"):
        Study.model_validate(operated)
    operated["cohort"] |= {"tolerated": 3, "quorum": 5}
    study = Study.model_validate(operated)
    assert least_tolerated(study.cohort.sites, "LAB") == 3
    assert least_tolerated(study.cohort.sites) == 2


def test_without_an_operator_no_site_is_bad_on_top() -> None:
    assert least_tolerated([Site(id=name) for name in NAMES[:4]], " ") == 1
