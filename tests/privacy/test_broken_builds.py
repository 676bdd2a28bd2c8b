"""Ten deliberately broken builds, each found by the audit, by a check of what was seen, or by the rehearsal."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.privacy import broken_builds as broken
from tests.privacy.checks import findings
from tests.privacy.marked import Audited, Seen, audited

from synthfed.client.site import check_records_apart
from synthfed.protocols.errors import QuorumLost, UnsupportedMechanism
from synthfed.protocols.privacy.plan import Plan

CLAIMED = 1.0
Build = Callable[[pytest.MonkeyPatch, Audited], None]


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    """The one plan of all studies here, once it is made."""
    return []


@pytest.fixture
def study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plans: list[Plan]
) -> Callable[[Build | None], tuple[Seen, dict[str, str]]]:
    """Return a function that runs a study of a build and returns what is seen and what the checks find."""

    def run(build: Build | None) -> tuple[Seen, dict[str, str]]:
        with audited(tmp_path / "study", CLAIMED, *plans) as federation, monkeypatch.context() as patch:
            plans[:] = [federation.pinned.policy.plan]
            if build:
                build(patch, federation)
            try:
                check_records_apart(federation.pinned)  # as every agent does before it meets a record
            except UnsupportedMechanism as error:
                return federation.seen(), {"rehearsal": str(error)}
            federation.model.met.clear()
            federation.train()
            seen = federation.seen()
        return seen, findings(seen, CLAIMED)

    return run


def test_a_sound_build_passes_every_check(study: Callable[[Build | None], tuple[Seen, dict[str, str]]]) -> None:
    seen, found = study(None)
    assert found == {}
    assert seen.charged == len(seen.met) == 20


@pytest.mark.parametrize(
    ("build", "by"),
    [
        (broken.noise_off, {"audit", "noise_size"}),
        (broken.noise_of_one_site_missing, {"noise_size"}),
        (broken.clipping_off, {"audit"}),
        (broken.shuffled_lots, {"sampling"}),
        (broken.noise_used_again, {"noise_is_fresh"}),
        (broken.bounds_from_the_data, {"rehearsal"}),
        (broken.batch_normalised, {"rehearsal"}),
        (broken.question_asked_again_is_free, {"charges"}),
        (broken.lots_twice_as_large, {"sampling"}),
        (broken.stale_ledger, {"charges"}),
    ],
)
def test_a_broken_build_is_found(
    study: Callable[[Build | None], tuple[Seen, dict[str, str]]], build: Build, by: set[str]
) -> None:
    _, found = study(build)
    assert by <= set(found), found


def test_a_sound_build_does_not_go_on_with_a_stale_ledger(
    study: Callable[[Build | None], tuple[Seen, dict[str, str]]],
) -> None:
    with pytest.raises(QuorumLost):
        study(broken.roll_back)
