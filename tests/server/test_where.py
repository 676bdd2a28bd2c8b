"""Conditions on synthetic rows: how they are read, and that every row meets them."""

from typing import Any

import numpy as np
import pytest

from synthfed.plugins.api import Given, Span
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Integer, Real, Records
from synthfed.server.sampling import draw
from synthfed.server.where import parse_conditions

COLUMNS: tuple[Column, ...] = (
    Categorical(name="sex", values=("F", "M, or not stated"), missing=True),
    ArrayColumn(name="scan", shape=(2,), lower=0, upper=1),
    Integer(name="age", lower=-5, upper=99, missing=True),
    Real(name="age in years", lower=0.0, upper=2.0, decimals=1),
    Categorical(name="a=b", values=tuple(str(i) for i in range(20))),
)
SEX, AGE, YEARS, LABEL = 0, 3, 4, 5


class Model:
    """A stand-in for a trained model: independent columns, one of which it can fix; counts what it draws."""

    def __init__(self) -> None:
        self.drawn = 0
        self.asked: list[Given] = []

    def sample(self, rows: int, seed: int, given: Given) -> Records:
        self.drawn += rows
        self.asked.append(given)
        rng = np.random.default_rng(seed)
        records = np.column_stack(
            [
                rng.integers(2, size=rows),
                rng.random((rows, 2)),
                rng.integers(-5, 100, size=rows),
                rng.uniform(0, 2, rows),
                rng.integers(20, size=rows),
            ]
        ).astype(float)
        records[rng.random(rows) < 0.01, SEX] = np.nan
        records[rng.random(rows) < 0.1, AGE] = np.nan
        if "a=b" in given:
            records[:, LABEL] = given["a=b"].low
        if "age" in given:
            records[:, AGE] = given["age"].low
        return records


def sampled(*texts: str, rows: int = 300, seed: int = 4, native: tuple[str, ...] = ("a=b",), model: Any = None) -> Any:
    trainer: Any = model or Model()
    return np.concatenate(list(draw(trainer, COLUMNS, rows, seed, parse_conditions(texts, COLUMNS), native)))


def test_every_row_meets_every_condition() -> None:
    records = sampled("sex = M, or not stated", "age in 30..40", "a=b = 7")
    assert records.shape == (300, 6)
    assert set(records[:, SEX]) == {1.0}
    assert set(records[:, AGE]) == set(range(30, 41))
    assert set(records[:, LABEL]) == {7.0}


def test_a_condition_holds_for_the_value_as_it_is_written() -> None:
    years = sampled("age in years = 0.3")[:, YEARS]
    assert set(np.round(years, 1)) == {0.3}
    assert len(set(years)) > 1


@pytest.mark.parametrize("text", ["age is missing", "age  is  missing"])
def test_a_missing_value_can_be_asked_for_and_meets_no_other_condition(text: str) -> None:
    assert np.isnan(sampled(text)[:, AGE]).all()
    assert not np.isnan(sampled("age in -5..99")[:, AGE]).any()


def test_negative_and_decimal_ranges_are_read() -> None:
    assert set(sampled("age in -5..-3")[:, AGE]) == {-5.0, -4.0, -3.0}
    written = np.round(sampled("age in years in .2..1.05")[:, YEARS], 1)
    assert (written.min(), written.max()) == (0.2, 1.0)


def test_what_the_model_can_fix_is_not_searched_for() -> None:
    model = Model()
    sampled("a=b = 7", model=model)
    assert (model.drawn, model.asked[0]) == (300, {"a=b": Span.at(7)})
    searched = Model()
    sampled("a=b = 7", model=searched, native=())
    assert searched.drawn > 300
    assert searched.asked[0] == {}


def test_ranges_and_missing_values_that_the_model_can_fix_are_not_searched_for_either() -> None:
    model, native = Model(), ("a=b", "age")
    assert set(sampled("age in 30..40", model=model, native=native)[:, AGE]) == {30.0}
    assert np.isnan(sampled("age is missing", "a=b = 7", model=model, native=native)[:, AGE]).all()
    assert model.drawn == 600
    assert model.asked[0] == {"age": Span(30, 40)}
    assert model.asked[1]["age"].is_missing


def test_the_same_seed_gives_the_same_rows() -> None:
    np.testing.assert_array_equal(sampled("age in 1..9"), sampled("age in 1..9"))
    assert not np.array_equal(sampled("age in 1..9"), sampled("age in 1..9", seed=5))


def test_a_rare_combination_is_given_up_with_how_rare_it_was() -> None:
    model = Model()
    with pytest.raises(ConfigError, match=r"`sex is missing` and .*: met by \d of 20,000 synthetic"):
        sampled("sex is missing", "age = 30", model=model, rows=10_000_000)
    assert model.drawn == 20_000


def test_few_rows_of_a_rare_kind_are_found_before_the_search_is_given_up() -> None:
    assert len(sampled("sex is missing", "age in 1..9", rows=3)) == 3


def test_chunks_of_wide_records_are_small() -> None:
    wide = (ArrayColumn(name="scan", shape=(2**20,), lower=0, upper=1),)

    model: Any = Model()
    assert [len(chunk) for chunk in draw(model, wide, 40, 0)] == [16, 16, 8]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("height = 3", "begins with no column and condition.*columns: 'sex', 'scan'"),
        ("age", "begins with no column and condition"),
        ("ages = 3", "begins with no column and condition"),
        ("sex = f", "column 'sex' has no category 'f'; its categories are 'F', 'M, or not stated'"),
        ("sex in F..M", "column 'sex' is categorical; write `sex = category`"),
        ("a=b = 99", "column 'a=b' has no category '99'.*'11' and 8 more"),
        ("age = old", "column 'age' holds whole numbers from -5 to 99"),
        ("age in 30", "column 'age' holds whole numbers from -5 to 99"),
        ("age in 40..30", "column 'age' holds whole numbers from -5 to 99.*, low first"),
        ("age in 30..100", "column 'age' holds whole numbers from -5 to 99"),
        ("age in years = nan", "column 'age in years' holds numbers from 0 to 2"),
        ("age in years is missing", "column 'age in years' is never missing"),
        ("scan = 0", "column 'scan' is an array"),
    ],
)
def test_a_condition_that_is_none_is_refused_with_what_the_column_can_be(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--where: .*{message}"):
        parse_conditions([text], COLUMNS)


def test_a_column_has_one_condition() -> None:
    with pytest.raises(ConfigError, match="column 'age' has two conditions"):
        parse_conditions(["age = 3", "age in 3..4"], COLUMNS)
