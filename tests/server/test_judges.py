"""The judges of tables: learners one by one, point masses, associations, and what each must tell apart."""

from collections.abc import Mapping

import numpy as np
import pytest

from synthfed.plugins.api import Source
from synthfed.protocols.schema import Categorical, Integer, Real, Records
from synthfed.protocols.study import ModelTerms, Study
from synthfed.server.compare.entries import DataSet
from synthfed.server.compare.judges import association, judged, macro_f1, point_masses, with_point_masses
from synthfed.server.compare.run import study_of

ILL = {"name": "ill", "kind": "categorical", "values": ["no", "yes"]}
SPENT = {"name": "spent", "kind": "real", "lower": 0, "upper": 100, "decimals": 2}
AGE = {"name": "age", "kind": "integer", "lower": 0, "upper": 99}


def study(*columns: Mapping[str, object], target: str = "ill") -> Study:
    data = DataSet.model_validate(
        {
            "name": "d",
            "source": "d.csv",
            "target": target,
            "sites": 3,
            "columns": columns,
            "privacy": {
                "mode": "distributed",
                "epsilon": 1.0,
                "delta": 1e-5,
                "units_per_site": 100,
                "sample_rate": 0.1,
                "steps": 1,
            },
        }
    )
    return study_of(data, "m", ModelTerms(plugin="m"), data.privacy, ["a", "b", "c"])


def people(rows: int, seed: int) -> Records:
    """Rows in which age tells who is ill, and 40 % have spent exactly 12.5."""
    rng = np.random.default_rng(seed)
    ill = rng.integers(2, size=rows)
    age = np.clip(rng.normal(40 + 20 * ill, 10, rows).round(), 0, 99)
    spent = np.where(rng.random(rows) < 0.4, 12.5, (100 * rng.random(rows)).round(2))
    return np.column_stack([ill, age, spent])


def tables(synthetic: Records) -> dict[Source, Records]:
    return {"synthetic": synthetic, "train": people(600, 1), "holdout": people(600, 2)}


def test_real_rows_are_judged_as_good_as_real_rows_by_each_of_three_learners() -> None:
    found = judged(study(ILL, AGE, SPENT), tables(people(600, 3)), 0)
    assert set(found) == {
        *("auc-linear", "auc-boosted", "auc-forest", "auc-mean", "macro-f1", "tvd2-strict", "association")
    }
    for name, measure in found.items():
        assert measure.real is not None
        assert measure.value == pytest.approx(measure.real, abs=0.04), name
    three = [found[f"auc-{name}"].value for name in ("linear", "boosted", "forest")]
    assert found["auc-mean"].value == pytest.approx(np.mean(three))
    assert min(three) > 0.8


def test_shuffled_columns_lose_the_prediction_and_the_associations() -> None:
    apart = np.random.default_rng(0).permuted(people(600, 3), axis=0)
    found = judged(study(ILL, AGE, SPENT), tables(apart), 0)
    assert found["auc-mean"].value < 0.65
    assert found["macro-f1"].value < found["macro-f1"].real - 0.1  # type: ignore[operator]
    assert found["association"].value > 3 * found["association"].real  # type: ignore[operator]


def test_a_pile_smeared_over_its_bin_is_seen_by_the_strict_distance_alone() -> None:
    rows = people(600, 3)
    smeared = rows.copy()
    pile = smeared[:, 2] == 12.5
    smeared[pile, 2] = (10 + 5 * np.random.default_rng(0).random(pile.sum())).round(2)
    exact, spread = (judged(study(ILL, AGE, SPENT), tables(each), 0)["tvd2-strict"].value for each in (rows, smeared))
    assert spread > exact + 0.2


def test_one_answer_for_all_is_a_guess_to_every_learner() -> None:
    rows = people(200, 3)
    rows[:, 0] = 1
    found = judged(study(ILL, AGE, SPENT), tables(rows), 0)
    assert [found[f"auc-{name}"].value for name in ("linear", "boosted", "forest", "mean")] == [0.5] * 4
    assert found["macro-f1"].value < 0.4


def test_a_numeric_target_has_distances_and_no_learners() -> None:
    found = judged(study(ILL, AGE, SPENT, target="spent"), tables(people(200, 3)), 0)
    assert set(found) == {"tvd2-strict", "association"}


def test_point_masses_are_the_numbers_that_many_real_rows_share() -> None:
    spent, age, ill = Real(**SPENT), Integer(**AGE), Categorical(**ILL)  # type: ignore[arg-type]
    values = np.array([7.0] * 5 + [8.0] + [np.nan] * 3 + list(np.linspace(10, 90, 91)))
    assert point_masses(spent, values).tolist() == [7.0]
    assert point_masses(ill, np.zeros(9)).size == 0
    records = np.array([[7.0], [7.004], [7.006], [np.nan]])
    of_masses, of_bins = (
        with_point_masses([spent], records, [np.array(masses)])[:, 0].tolist() for masses in ([7.0], [])
    )
    assert of_masses == [22, 22, *of_bins[2:]]  # after the 22 of the audits
    assert with_point_masses([age], np.array([[7.0], [8.0]]), [np.array([7.0])])[:, 0].tolist() == [22, 2]


def test_f1_is_the_mean_over_classes_and_not_over_rows() -> None:
    truth = np.array([0.0] * 98 + [1.0] * 2)
    assert macro_f1(truth, np.zeros(100, dtype=np.int64)) == pytest.approx(98 * 2 / (98 + 100) / 2)


def test_association_knows_sure_and_no_dependence_and_tables_of_one_value() -> None:
    assert association(np.diag([30.0, 30.0, 30.0])) == pytest.approx(1.0, abs=1e-9)
    assert association(np.outer([20.0, 40.0], [1.0, 2.0])) == 0.0
    assert association(np.array([[5.0, 0.0], [7.0, 0.0]])) == 0.0
    noise = np.random.default_rng(0).multinomial(200, np.full(16, 1 / 16)).reshape(4, 4).astype(float)
    assert association(noise) < 0.15  # the plain V of such a table is about 0.12 to 0.2
