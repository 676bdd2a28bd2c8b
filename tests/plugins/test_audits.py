"""The built-in audits on tables whose answer is known."""

import math
import sys
from typing import Any

import numpy as np
import pytest

from synthfed.plugins.api import Audit, Source
from synthfed.plugins.audits.estimate import Estimate, independent_columns
from synthfed.plugins.audits.fidelity import Fidelity, place
from synthfed.plugins.audits.utility import Utility, macro_auc, r_squared
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import Categorical, Integer, Real, Records
from synthfed.protocols.study import Study

ROWS = 1500


def study(target: str = "ill") -> Study:
    return Study.model_validate(
        {
            "format": 1,
            "name": "known-answers",
            "target": target,
            "privacy": {
                "mode": "local",
                "epsilon": 1.0,
                "delta": 1e-5,
                "units_per_site": 1000,
                "sample_rate": 0.1,
                "steps": 10,
            },
            "model": {"plugin": "none"},
            "cohort": {"tolerated": 1, "quorum": 2, "sites": [{"id": "a"}, {"id": "b"}, {"id": "c"}]},
            "columns": [
                {"kind": "categorical", "name": "ill", "values": ["no", "yes"]},
                {"kind": "categorical", "name": "ward", "values": ["x", "y", "z"], "missing": True},
                {"kind": "integer", "name": "visits", "lower": 0, "upper": 50, "scale": "log"},
                {"kind": "real", "name": "age", "lower": 0, "upper": 100, "missing": True},
            ],
        }
    )


def population(rows: int, seed: int) -> Records:
    """Return rows in which age drives illness, illness drives visits, and wards follow age."""
    rng = np.random.default_rng(seed)
    age = np.round(rng.uniform(0, 100, rows), 4)
    ill = (rng.random(rows) < 1 / (1 + np.exp((50 - age) / 8))).astype(float)
    visits = np.minimum(rng.poisson(1 + 6 * ill), 50).astype(float)
    ward = np.floor(age / 33.4)
    ward[rng.random(rows) < 0.1] = np.nan
    age[rng.random(rows) < 0.1] = np.nan
    return np.stack([ill, ward, visits, age], axis=1)


TRAIN, HOLDOUT = population(ROWS, 1), population(ROWS, 2)


def run(audit: Audit, synthetic: Records, target: str = "ill", seed: int = 0) -> dict[str, Estimate]:
    rows: dict[Source, Records] = {"synthetic": synthetic, "train": TRAIN, "holdout": HOLDOUT}
    estimates = audit.run(study(target), rows, seed)
    return {each.name + (f":{each.column}" if each.column else ""): each for each in estimates}


def resampled(table: Records) -> Records:
    return table[np.random.default_rng(3).integers(len(table), size=len(table))]


def test_resampled_real_rows_are_as_near_as_real_rows() -> None:
    found = run(Fidelity(), resampled(HOLDOUT))
    assert found["tvd1"].value <= found["tvd1"].control + 0.01
    assert found["tvd2"].value <= found["tvd2"].control + 0.01
    assert found["tvd2"].high < found["tvd2"].baseline


def test_shuffled_columns_keep_one_way_and_lose_two_way_distributions() -> None:
    found = run(Fidelity(), independent_columns(TRAIN, np.random.default_rng(4)))
    assert found["tvd1"].value == pytest.approx(found["tvd1"].control)
    assert found["tvd2"].value > 2 * found["tvd2"].control
    assert found["tvd2"].low <= found["tvd2"].baseline <= found["tvd2"].high


def test_a_table_of_one_repeated_row_is_far_from_real_rows() -> None:
    found = run(Fidelity(), np.repeat(TRAIN[:1], ROWS, axis=0))
    assert found["tvd1"].low > 0.5
    assert found["tvd2"].low > found["tvd2"].baseline


def test_every_column_has_its_distance_and_their_mean_is_the_whole_tables() -> None:
    found = run(Fidelity(), resampled(TRAIN))
    columns = [each.value for name, each in found.items() if name.startswith("tvd1:")]
    assert len(columns) == 4
    assert found["tvd1"].value == pytest.approx(np.mean(columns))


def test_an_estimate_lies_inside_its_interval_and_the_range_of_a_distance() -> None:
    for each in run(Fidelity(), resampled(TRAIN)).values():
        assert 0 <= each.low <= each.value <= each.high <= 1
        assert 0 <= each.control <= 1
        assert each.level == 0.95


def test_a_table_of_one_column_has_no_two_way_distance() -> None:
    one = study().model_copy(update={"columns": study().columns[:1]})
    rows: dict[Source, Records] = {"synthetic": TRAIN[:, :1], "train": TRAIN[:, :1], "holdout": HOLDOUT[:, :1]}
    assert {each.name for each in Fidelity().run(one, rows, 0)} == {"tvd1"}
    assert Utility().run(one, rows, 0)[0].value == 0.5


@pytest.mark.parametrize("audit", [Fidelity(), Utility()])
def test_an_audit_is_the_same_for_the_same_seed_and_leaves_its_rows_alone(audit: Audit) -> None:
    synthetic = resampled(TRAIN)
    before = synthetic.copy()
    assert run(audit, synthetic, seed=7) == run(audit, synthetic, seed=7)
    assert run(audit, synthetic, seed=7) != run(audit, synthetic, seed=8)
    np.testing.assert_array_equal(synthetic, before)


@pytest.mark.parametrize("audit", [Fidelity(), Utility()])
def test_an_empty_table_is_refused_in_words(audit: Audit) -> None:
    with pytest.raises(DataError, match="at least one row"):
        run(audit, np.empty((0, 4)))


def test_the_lower_bound_and_missing_have_bins_of_their_own() -> None:
    cost = Real(name="cost", lower=0.0, upper=100.0, missing=True)
    assert place(cost, np.array([0.0, 0.1, 5.0, 99.9, 100.0, np.nan])).tolist() == [0, 1, 2, 20, 20, 21]
    ward = Categorical(name="ward", values=("x", "y"), missing=True)
    assert place(ward, np.array([0.0, 1.0, np.nan])).tolist() == [0, 1, 2]


def test_bins_follow_the_columns_scale_and_not_the_data() -> None:
    visits = Integer(name="visits", lower=0, upper=10_000, scale="log")
    few = place(visits, np.array([0.0, 1.0, 100.0, 10_000.0]))
    assert few.tolist() == [0, 2, 11, 20]
    assert place(visits, np.array([100.0])).tolist() == [11]


def test_resampled_real_rows_keep_the_utility_and_shuffled_ones_lose_it() -> None:
    kept = run(Utility(), resampled(TRAIN))
    assert kept["auc"].control > 0.85
    assert kept["auc"].value == pytest.approx(kept["auc"].control, abs=0.03)
    assert kept["utility-kept"].value == pytest.approx(1.0, abs=0.08)
    lost = run(Utility(), independent_columns(TRAIN, np.random.default_rng(4)))
    assert lost["auc"].high < 0.8 < lost["auc"].control
    assert lost["utility-kept"].high < 0.7


@pytest.mark.parametrize(("target", "name"), [("ward", "auc"), ("visits", "r2"), ("age", "r2")])
def test_any_kind_of_target_is_scored(target: str, name: str) -> None:
    found = run(Utility(), resampled(TRAIN), target)
    assert found[name].low <= found[name].value <= found[name].high
    assert found[name].value > found[name].baseline


def test_a_single_class_of_the_synthetic_target_scores_as_guessing_and_says_so() -> None:
    synthetic = TRAIN.copy()
    synthetic[:, 0] = 1.0
    found = run(Utility(), synthetic)["auc"]
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    assert "one value only" in found.warning


def test_a_class_that_the_synthetic_rows_lack_is_scored_as_guessing() -> None:
    synthetic = resampled(TRAIN)
    found = run(Utility(), synthetic[synthetic[:, 1] != 2.0], "ward")["auc"]
    assert 0.5 < found.value < found.control


def test_a_target_that_nothing_predicts_has_no_kept_share() -> None:
    rng = np.random.default_rng(5)
    rows: dict[Source, Records] = {
        source: independent_columns(TRAIN, rng) for source in ("synthetic", "train", "holdout")
    }
    assert [each.name for each in Utility().run(study(), rows, 0)] == ["auc"]


def test_without_scikit_learn_the_utility_audit_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r'pip install "synthfed\[demo\]"'):
        run(Utility(), TRAIN)


@pytest.mark.parametrize(
    ("scores", "area"),
    [([0.1, 0.2, 0.8, 0.9], 1.0), ([0.9, 0.8, 0.2, 0.1], 0.0), ([0.5] * 4, 0.5), ([0.1, 0.8, 0.2, 0.9], 0.75)],
)
def test_the_area_under_the_curve_matches_hand_counts(scores: list[float], area: float) -> None:
    ones = np.array(scores)
    assert macro_auc(np.array([0.0, 0.0, 1.0, 1.0]), np.stack([1 - ones, ones], axis=1)) == pytest.approx(area)


def test_the_scores_agree_with_scikit_learn() -> None:
    metrics: Any = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(6)
    truth, scores = rng.integers(3, size=300).astype(float), rng.dirichlet(np.ones(3), 300).round(2)
    areas = [metrics.roc_auc_score(truth == label, scores[:, label]) for label in range(3)]
    assert macro_auc(truth, scores) == pytest.approx(np.mean(areas))
    assert r_squared(truth, scores) == pytest.approx(metrics.r2_score(truth, scores[:, 0]))


def test_scores_of_a_target_that_does_not_vary_are_those_of_guessing() -> None:
    assert macro_auc(np.zeros(3), np.zeros((3, 2))) == 0.5
    assert r_squared(np.ones(3), np.zeros((3, 1))) == 0.0
    assert math.isclose(r_squared(np.array([0.0, 1.0]), np.array([[0.0], [1.0]])), 1.0)
