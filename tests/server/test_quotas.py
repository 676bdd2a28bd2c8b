"""Rows by quota: balanced categories, rates made alike across groups, and what both leave as it is."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pytest

from synthfed.plugins.api import Given
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Integer, Records
from synthfed.server import sampling
from synthfed.server.quotas import Supply, draw_by, find_quota
from synthfed.server.where import parse_conditions

COLUMNS: Final[tuple[Column, ...]] = (
    ArrayColumn(name="scan", shape=(2,), lower=0, upper=1),
    Categorical(name="sex", values=("F", "M"), missing=True),
    Categorical(name="income", values=("low", "middle", "high"), missing=True),
    Integer(name="age", lower=0, upper=99),
    Categorical(name="town", values=("a", "b")),
)
SEX, INCOME, AGE, TOWN = 2, 3, 4, 5
RATES: Final = np.array([[0.80, 0.15, 0.05], [0.40, 0.30, 0.30], [0.60, 0.20, 0.20]])
"""How often an income is low, middle and high among women, men and those whose sex is missing."""
OVERALL: Final = np.array([0.6, 0.3, 0.1]) @ RATES


class Model:
    """A stand-in for a trained model in which income depends on sex, and age on both; it can fix what it is told."""

    def __init__(self, native: Sequence[str]) -> None:
        self.native = native

    def sample(self, rows: int, seed: int, given: Given) -> Records:
        assert set(given) <= set(self.native)
        rng, kept = np.random.default_rng(seed), [np.empty((0, 6))]
        while sum(map(len, kept)) < rows:
            drawn = self._drawn(2 * rows + 100, rng)
            for name, span in given.items():
                values = drawn[:, {"sex": SEX, "income": INCOME, "age": AGE, "town": TOWN}[name]]
                met = np.isnan(values) if span.is_missing else (values >= span.low) & (values <= span.high)
                drawn = drawn[met]
            kept.append(drawn)
        return np.concatenate(kept)[:rows]

    @staticmethod
    def _drawn(rows: int, rng: np.random.Generator) -> Records:
        sex = rng.choice(3, rows, p=[0.6, 0.3, 0.1])
        income = (rng.random((rows, 1)) > RATES[sex].cumsum(axis=1)).sum(axis=1)
        age = rng.integers(20 * income + 5 * sex, 20 * income + 5 * sex + 30)
        records = np.column_stack([rng.random((rows, 2)), sex, income, age, rng.integers(2, size=rows)]).astype(float)
        records[sex == 2, SEX] = np.nan
        records[rng.random(rows) < 0.05, INCOME] = np.nan
        return records


def drawn(*where: str, rows: int = 6000, seed: int = 3, native: Sequence[str] = ("sex", "income"), **asked: str) -> Any:
    conditions = parse_conditions(where, COLUMNS)
    quota = find_quota(COLUMNS, conditions, **asked)
    assert quota is not None
    trainer: Any = Model(native)
    return np.concatenate(list(draw_by(quota, Supply(trainer, COLUMNS, conditions, native), rows, seed)))


NATIVE = pytest.mark.parametrize("native", [("sex", "income"), ("income",), ()], ids=["fixed", "half fixed", "found"])


@NATIVE
@pytest.mark.parametrize("rows", [1, 2, 100, 1003])
def test_balanced_rows_have_every_category_equally_often_to_one_row(rows: int, native: tuple[str, ...]) -> None:
    income = drawn(rows=rows, native=native, balance="income")[:, INCOME]
    assert len(income) == rows
    counts = np.bincount(income.astype(int), minlength=3)  # fails on a missing value
    assert counts.max() - counts.min() <= 1


def test_balance_holds_over_chunks_and_rows_come_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CHUNK", 70)
    income = drawn(rows=500, balance="income")[:, INCOME]
    counts = np.bincount(income.astype(int))
    assert counts.max() - counts.min() <= 1
    # Neighbours in a random order are alike in a third of cases; five standard deviations, once in 1.7 million.
    assert abs(np.mean(income[1:] == income[:-1]) - 1 / 3) < 5 * np.sqrt(2 / 9 / 500)


@NATIVE
def test_balanced_rows_are_in_each_category_as_plain_rows_are(native: tuple[str, ...]) -> None:
    records = drawn(native=native, balance="income")
    plain = Model(()).sample(60_000, 0, {})
    for code in range(3):
        one, other = records[records[:, INCOME] == code, AGE], plain[plain[:, INCOME] == code, AGE]
        assert abs(one.mean() - other.mean()) < 5 * np.sqrt(one.var() / len(one) + other.var() / len(other))


@NATIVE
def test_equalised_rows_have_the_same_rates_in_every_group(native: tuple[str, ...]) -> None:
    records = drawn(native=native, equalise="income", across="sex")
    income, sex = (np.nan_to_num(records[:, place], nan=9) for place in (INCOME, SEX))
    overall = np.array([np.mean(income == code) for code in (0, 1, 2, 9)])
    for group in (0, 1, 9):
        mine = np.array([np.sum(income[sex == group] == code) for code in (0, 1, 2, 9)])
        assert np.abs(mine - overall * np.sum(sex == group)).max() <= 4


@NATIVE
def test_equalising_leaves_groups_rates_and_the_rest_as_the_model_has_them(native: tuple[str, ...]) -> None:
    records = drawn(native=native, equalise="income", across="sex")
    # Counts of 6000 draws within five standard deviations each: seven numbers, by chance once in 240,000.
    for place, shares in ((SEX, [0.6, 0.3]), (INCOME, 0.95 * OVERALL)):
        for code, share in enumerate(shares):
            count = np.sum(records[:, place] == code)
            assert abs(count - 6000 * share) < 5 * np.sqrt(6000 * share * (1 - share))
    plain = Model(()).sample(60_000, 0, {})
    for sex, income in ((0, 0), (0, 2), (1, 1)):
        one, other = (each[(each[:, SEX] == sex) & (each[:, INCOME] == income), AGE] for each in (records, plain))
        assert abs(one.mean() - other.mean()) < 5 * np.sqrt(one.var() / len(one) + other.var() / len(other))


def test_a_quota_goes_with_conditions_on_other_columns() -> None:
    records = drawn("age in 30..45", "town = b", balance="income", rows=301)
    assert set(records[:, TOWN]) == {1.0}
    assert records[:, AGE].min() >= 30 and records[:, AGE].max() <= 45
    counts = np.bincount(records[:, INCOME].astype(int))
    assert counts.max() - counts.min() <= 1
    records = drawn("age in 30..45", equalise="income", across="town", rows=3000)
    assert records[:, AGE].min() >= 30 and records[:, AGE].max() <= 45
    rates = [np.mean(records[records[:, TOWN] == town, INCOME] == 1) for town in (0, 1)]
    assert abs(rates[0] - rates[1]) < 0.005


@pytest.mark.parametrize("asked", [{"balance": "income"}, {"equalise": "income", "across": "sex"}], ids=str)
def test_a_seed_fixes_rows_by_quota(asked: dict[str, Any]) -> None:
    np.testing.assert_array_equal(drawn(rows=400, **asked), drawn(rows=400, **asked))
    assert not np.array_equal(drawn(rows=400, **asked), drawn(rows=400, seed=4, **asked), equal_nan=True)


def test_a_category_that_is_hardly_ever_met_is_given_up_with_how_rare_it_was() -> None:
    with pytest.raises(ConfigError, match=r"`age = 99` and `income = low`: met by 0 of 2\d,\d00 synthetic"):
        drawn("age = 99", native=(), balance="income")


def test_nothing_asked_for_is_no_quota() -> None:
    assert find_quota(COLUMNS, ()) is None


@pytest.mark.parametrize(
    ("where", "asked", "message"),
    [
        ([], {"balance": "sex", "equalise": "income", "across": "sex"}, "--balance: cannot go with --equalise"),
        ([], {"equalise": "income"}, "--equalise, --across: go together; name the column whose rates .* groups"),
        ([], {"across": "income"}, "--equalise, --across: go together"),
        ([], {"equalise": "sex", "across": "sex"}, "--across: must be another column"),
        ([], {"balance": "height"}, "--balance: the study has no column 'height'; its columns: scan, sex"),
        ([], {"balance": "age"}, "--balance: column 'age' is a number; name a categorical column"),
        ([], {"equalise": "income", "across": "scan"}, "--across: column 'scan' is an array"),
        (["sex = F"], {"equalise": "income", "across": "sex"}, "--across: column 'sex' has a condition already"),
    ],
)
def test_a_quota_that_cannot_be_is_refused(where: list[str], asked: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_quota(COLUMNS, parse_conditions(where, COLUMNS), **asked)


@pytest.mark.parametrize(("rows", "seed"), [(0, 1), (3, -1)])
def test_a_table_by_quota_that_cannot_be_is_not_drawn(rows: int, seed: int) -> None:
    with pytest.raises(ConfigError, match="cannot sample"):
        drawn(rows=rows, seed=seed, balance="income")
