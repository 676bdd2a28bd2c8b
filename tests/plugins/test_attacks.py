"""The audits that attack a release, on tables whose answer is known."""

import numpy as np
import pytest
from tests.plugins.test_audits import HOLDOUT, ROWS, TRAIN, population, run, study

from synthfed.plugins.api import Audit, Source
from synthfed.plugins.audits.attacks import auc, divide
from synthfed.plugins.audits.attribute import Attribute
from synthfed.plugins.audits.copies import Copies
from synthfed.plugins.audits.detection import Detection
from synthfed.plugins.audits.distances import features_of, nearest
from synthfed.plugins.audits.estimate import independent_columns
from synthfed.plugins.audits.membership import Membership
from synthfed.protocols.errors import DataError
from synthfed.protocols.schema import Records

FRESH = population(ROWS, 5)
"""Real rows that nothing was trained on: the best that a release can be, and no member's."""


def smeared(records: Records) -> Records:
    """Return rows with every age moved a little: near copies, none exact."""
    rng = np.random.default_rng(6)
    moved = records.copy()
    moved[:, 3] = np.clip(moved[:, 3] + rng.normal(0, 0.002, len(moved)), 0, 100)
    return moved


@pytest.mark.parametrize("release", [TRAIN, smeared(TRAIN)], ids=["the rows themselves", "rows moved a little"])
def test_a_release_of_the_train_rows_makes_every_attack_scream(release: Records) -> None:
    found = run(Membership(), release) | run(Attribute(), release) | run(Copies(), release)
    for name in ("membership-ratio", "membership-distance"):
        assert found[name].low > 0.8, name
        assert "better than chance" in found[name].warning
    assert found["attribute-advantage"].low > 0.1
    assert found["attribute-advantage"].warning
    assert found["nearer-to-train"].low > 0.9
    assert "by heart" in found["nearer-to-train"].warning


def test_exact_copies_are_counted_and_near_ones_are_not() -> None:
    known = ~np.isnan(TRAIN[:, 3])  # a record without an age has few other values
    copies = run(Copies(), TRAIN)["copies"]
    assert (copies.value, copies.baseline) == (1.0, 1.0)
    assert copies.control < 0.2
    assert copies.warning
    half = np.where(np.arange(ROWS)[:, None] % 2 == 0, TRAIN, FRESH)[known & ~np.isnan(FRESH[:, 3])]
    assert run(Copies(), half)["copies"].value == pytest.approx(0.5, abs=0.05)
    assert run(Copies(), smeared(TRAIN[known]))["copies"].value < 0.01


def test_equal_rows_are_copies_however_zero_and_missing_values_are_spelt() -> None:
    other = np.frombuffer(np.array([0x7FF8000000000001], dtype=np.uint64).tobytes(), dtype=np.float64)[0]
    spelt = np.where(np.isnan(TRAIN), other, np.where(TRAIN == 0, -0.0, TRAIN))
    assert run(Copies(), spelt)["copies"].value == 1.0


@pytest.mark.parametrize("audit", [Membership(), Attribute(), Copies()])
def test_real_rows_that_nothing_was_trained_on_give_no_attack_anything(audit: Audit) -> None:
    for each in run(audit, FRESH).values():
        assert each.low <= each.control + 0.05
        assert each.high < each.baseline
        assert each.warning == "", each


def test_the_attack_is_at_chance_over_many_draws_of_innocent_rows() -> None:
    values = []
    for seed in range(20):
        rows: dict[Source, Records] = {
            "synthetic": population(300, 100 + seed),
            "train": population(300, 200 + seed),
            "holdout": population(900, 300 + seed),
        }
        values.append([each.value for each in Membership().run(study(), rows, seed)])
    assert np.mean(values, axis=0) == pytest.approx([0.5, 0.5], abs=0.02)  # five standard errors


def test_what_everybody_has_in_common_is_no_leak() -> None:
    """Illness follows from the other columns, so it is guessed often, of members and of others alike."""
    found = run(Attribute(), FRESH)["attribute-advantage"]
    assert abs(found.value) < 0.05
    assert found.low <= 0 <= found.high


def test_a_classifier_cannot_tell_real_rows_apart_but_sees_shuffled_ones() -> None:
    fresh = run(Detection(), FRESH)["detection"]
    assert fresh.low <= 0.5 <= fresh.high
    shuffled = run(Detection(), independent_columns(TRAIN, np.random.default_rng(4)))["detection"]
    assert shuffled.low > 0.7
    assert shuffled.value == pytest.approx(shuffled.baseline, abs=0.05)
    assert shuffled.control == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("audit", [Membership(), Attribute(), Copies(), Detection()])
def test_a_table_without_rows_is_refused_in_words(audit: Audit) -> None:
    with pytest.raises(DataError, match=r"needs? (at least|a synthetic)"):
        run(audit, np.empty((0, 4)))


def test_nobody_is_on_two_sides_of_an_attack() -> None:
    rows: dict[Source, Records] = {"synthetic": FRESH, "train": TRAIN, "holdout": HOLDOUT}
    parties = divide(rows, np.random.default_rng(0))
    sides = [parties.others, parties.reference, parties.releases["real"]]
    assert [len(side) for side in sides] == [ROWS // 3] * 3
    together = {row.tobytes() for side in sides for row in side}
    assert together == {row.tobytes() for row in HOLDOUT}
    published = {row.tobytes() for row in parties.releases["train"]}
    assert {row.tobytes() for row in parties.members} <= published


def test_the_area_under_the_curve_counts_ties_half() -> None:
    assert auc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert auc(np.array([2.0]), np.array([1.0, 3.0])) == 0.5
    assert auc(np.array([-np.inf]), np.array([np.inf])) == 0.0


def test_the_nearest_rows_are_those_of_a_slow_search() -> None:
    first, second = (features_of(study(), population(rows, seed)) for rows, seed in ((600, 8), (40, 9)))
    slow = ((first[:, None] - second[None]) ** 2).sum(axis=2).min(axis=1)
    np.testing.assert_allclose(nearest(first, second), slow, atol=1e-12)
