"""Audits of arrays, and of diversity, on records whose answer is known."""

import sys
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from synthfed.plugins.api import Audit, Source
from synthfed.plugins.audits.diversity import Diversity
from synthfed.plugins.audits.estimate import Estimate
from synthfed.plugins.audits.features import array_features, gaussian_arrays
from synthfed.plugins.audits.recognition import Recognition
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import ArrayColumn, Categorical, Records
from synthfed.protocols.study import Study

PIXELS: dict[str, Any] = {"name": "pixels", "kind": "array", "shape": [1, 8, 8], "lower": 0, "upper": 16}
DIGIT: dict[str, Any] = {"name": "digit", "kind": "categorical", "values": [str(i) for i in range(10)], "missing": True}
AGE: dict[str, Any] = {"name": "age", "kind": "integer", "lower": 0, "upper": 100}
ROWS = 400


def study(*columns: dict[str, Any], target: str = "digit") -> Study:
    return Study.model_validate(
        {
            "format": 1,
            "name": "known-answers",
            "target": target,
            "domain": "image",
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
            "columns": list(columns or (DIGIT, PIXELS)),
        }
    )


def digits() -> tuple[Records, Records, Records]:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    records = np.column_stack([data.target, data.data])[order]
    return records[:ROWS], records[ROWS : 2 * ROWS], records[2 * ROWS : 3 * ROWS]


TRAIN, HOLDOUT, OTHERS = digits()


def run(audit: Audit, synthetic: Records, of: Study | None = None) -> dict[str, Estimate]:
    rows: dict[Source, Records] = {"synthetic": synthetic, "train": TRAIN, "holdout": HOLDOUT}
    return {each.name: each for each in audit.run(of or study(), rows, seed=1)}


def test_real_digits_teach_to_recognise_digits_as_well_as_the_control() -> None:
    accuracy = run(Recognition(), OTHERS)["accuracy"]
    assert accuracy.baseline < accuracy.value
    assert accuracy.low <= accuracy.value <= accuracy.high
    assert abs(accuracy.value - accuracy.control) < 0.04
    assert accuracy.control > 0.88
    assert accuracy.high - accuracy.low < 0.1


def test_wrong_labels_teach_nothing() -> None:
    shuffled = OTHERS.copy()
    shuffled[:, 0] = np.random.default_rng(3).permutation(shuffled[:, 0])
    assert run(Recognition(), shuffled)["accuracy"].high < 0.3


def test_one_label_only_is_warned_of() -> None:
    alike = OTHERS.copy()
    alike[:, 0] = 3
    accuracy = run(Recognition(), alike)["accuracy"]
    assert accuracy.value == np.mean(HOLDOUT[:, 0] == 3)
    assert "one value only" in accuracy.warning


def test_rows_without_a_label_do_not_count() -> None:
    unlabelled = OTHERS.copy()
    unlabelled[:, 0] = np.nan
    with pytest.raises(DataError, match="at least one row with a known target"):
        run(Recognition(), unlabelled)


def test_recognition_says_where_it_is_unfit() -> None:
    assert "no column is an array" in Recognition().unfit(study(DIGIT, AGE))
    assert "'age' is a number" in Recognition().unfit(study(DIGIT, PIXELS, AGE, target="age"))
    assert not Recognition().unfit(study())
    assert not Diversity().unfit(study())


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"recognition audit needs scikit-learn; run: pip install"):
        run(Recognition(), OTHERS)


def test_other_real_digits_cover_what_real_digits_cover() -> None:
    found = run(Diversity(), OTHERS)
    assert 0.9 < found["coverage"].value <= 1
    assert 0.85 < found["density"].value < 1.15
    for each in found.values():
        assert each.low <= each.value <= each.high
        assert abs(each.value - each.control) < 0.1
        assert each.baseline < 0.5


def test_one_digit_again_and_again_covers_little_and_is_dense() -> None:
    found = run(Diversity(), np.tile(OTHERS[:1], (ROWS, 1)))
    assert found["coverage"].value < 0.1
    assert found["coverage"].high < found["coverage"].control


def test_tables_are_compared_by_all_their_columns() -> None:
    rng = np.random.default_rng(5)

    def population(rows: int) -> Records:
        age = np.rint(rng.uniform(0, 100, rows))
        return np.column_stack([np.floor(age / 10.1), age])

    rows: dict[Source, Records] = {name: population(500) for name in ("synthetic", "train", "holdout")}
    table = study(DIGIT, AGE)
    covered, _ = Diversity().run(table, rows, seed=0)
    assert covered.value > 0.9
    assert covered.baseline < covered.low  # columns shuffled apart
    exact = rows | {"synthetic": rows["holdout"]}
    assert Diversity().run(table, exact, seed=0)[0].value == 1.0  # equal rows count as near, whatever the rounding


def test_a_table_with_few_rows_has_no_neighbours() -> None:
    with pytest.raises(DataError, match="needs more than 5 rows"):
        run(Diversity(), OTHERS[:5])


def test_large_arrays_are_averaged_down_without_changing_their_mean() -> None:
    columns = (ArrayColumn(name="photo", shape=(3, 65, 40), lower=0, upper=255),)
    records = np.random.default_rng(0).uniform(0, 255, (4, 3 * 65 * 40))
    features = array_features(columns, records)
    assert features.shape[1] <= 1024
    np.testing.assert_allclose(features.mean(), records.mean() / 255, atol=0.01)


def test_the_trivial_model_of_arrays_keeps_labels_means_and_bounds() -> None:
    columns = (Categorical(name="digit", values=tuple("0123456789")), ArrayColumn(**PIXELS))
    drawn = gaussian_arrays(columns, TRAIN, 0, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn[:, 0], TRAIN[:, 0])
    assert drawn[:, 1:].min() >= 0
    assert drawn[:, 1:].max() <= 16
    zeros = TRAIN[:, 0] == 0
    assert np.abs(drawn[zeros, 1:].mean(axis=0) - TRAIN[zeros, 1:].mean(axis=0)).max() < 3
