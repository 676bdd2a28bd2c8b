"""The public description of records."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from synthfed.protocols.schema import (
    MAX_CATEGORIES,
    MAX_COLUMNS,
    MAX_WIDTH,
    ArrayColumn,
    Categorical,
    Columns,
    Integer,
    Real,
    check_columns,
    places,
    width_of,
)

COLUMNS: TypeAdapter[Any] = TypeAdapter(Columns)


def problem_of(**fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        COLUMNS.validate_python([fields])
    return str(caught.value.errors()[0]["msg"])


def test_every_kind_of_column_is_read_by_its_kind() -> None:
    found = COLUMNS.validate_python(
        [
            {"kind": "categorical", "name": "c", "values": ["x"]},
            {"kind": "integer", "name": "i", "lower": -1, "upper": 5, "scale": "log"},
            {"kind": "real", "name": "r", "lower": 0, "upper": 1.5, "missing": True},
            {"kind": "array", "name": "a", "shape": [1, 28, 28], "lower": 0, "upper": 255},
        ]
    )
    assert found == (
        Categorical(name="c", values=("x",)),
        Integer(name="i", lower=-1, upper=5, scale="log"),
        Real(name="r", lower=0.0, upper=1.5, missing=True),
        ArrayColumn(name="a", shape=(1, 28, 28), lower=0.0, upper=255.0),
    )
    assert isinstance(found[2].lower, float)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"kind": "categorical", "values": ["x", "x"]}, "lists a category twice"),
        ({"kind": "categorical", "values": ["x", ""]}, "lists the empty text"),
        ({"kind": "categorical", "values": []}, "at least 1 item"),
        ({"kind": "categorical", "values": [str(i) for i in range(MAX_CATEGORIES + 1)]}, "at most 4096 items"),
        ({"kind": "categorical", "values": [1]}, "valid string"),
        ({"kind": "integer", "lower": 5, "upper": 5}, "lower must be less than upper"),
        ({"kind": "integer", "lower": 0, "upper": 2**53 + 1}, "less than or equal to 9007199254740992"),
        ({"kind": "integer", "lower": -(2**53) - 1, "upper": 0}, "greater than or equal to -9007199254740992"),
        ({"kind": "integer", "lower": 0.0, "upper": 1}, "valid integer"),
        ({"kind": "integer", "lower": 0, "upper": 1, "scale": "cubic"}, "'linear' or 'log'"),
        ({"kind": "real", "lower": 2.0, "upper": 1.0}, "lower must be less than upper"),
        ({"kind": "real", "lower": 0.0, "upper": 1e300}, "beyond 2**53 cannot be held exactly"),
        ({"kind": "real", "lower": 1e6, "upper": 1e6 + 1e-9}, "too close to tell values apart"),
        ({"kind": "real", "lower": float("-inf"), "upper": 1.0}, "finite number"),
        ({"kind": "real", "lower": 0.0, "upper": float("nan")}, "finite number"),
        ({"kind": "real", "lower": False, "upper": 1.0}, "valid number"),
        ({"kind": "real", "lower": "0", "upper": 1.0}, "valid number"),
        ({"kind": "real", "lower": 0.0, "upper": 1.0, "decimals": 13}, "less than or equal to 12"),
        ({"kind": "real", "lower": 0.0, "upper": 1.0, "decimals": -1}, "greater than or equal to 0"),
        ({"kind": "real", "lower": 0.0, "upper": 1.0, "bins": 3}, "Extra inputs"),
        ({"kind": "text"}, "does not match any of the expected tags"),
    ],
)
def test_a_malformed_column_is_refused(fields: dict[str, Any], problem: str) -> None:
    assert problem in problem_of(name="x", **fields)


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_a_name_has_one_to_64_characters(name: str) -> None:
    assert "character" in problem_of(name=name, kind="categorical", values=["a"])


def test_a_table_has_one_to_512_columns() -> None:
    columns = [{"kind": "categorical", "name": f"c{i}", "values": ["x"]} for i in range(MAX_COLUMNS + 1)]
    assert len(COLUMNS.validate_python(columns[:-1])) == MAX_COLUMNS
    for wrong in ([], columns):
        with pytest.raises(ValidationError, match=r"items? after validation"):
            COLUMNS.validate_python(wrong)


def test_a_column_cannot_be_changed_once_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Integer(name="i", lower=0, upper=1).upper = 2


def test_two_columns_of_one_name_are_refused() -> None:
    one, other = Categorical(name="x", values=("a",)), Integer(name="y", lower=0, upper=1)
    check_columns([one, other])
    with pytest.raises(ValueError, match="column 'x' is declared twice"):
        check_columns([one, other, one])


def test_an_array_takes_one_place_for_each_of_its_numbers() -> None:
    pixels = ArrayColumn(name="pixels", shape=(2, 3, 4), lower=0.0, upper=1.0)
    assert width_of(pixels) == 24
    assert places([Real(name="r", lower=0.0, upper=1.0), pixels]) == (0, 1, 25)


@pytest.mark.parametrize("shape", [[], [0], [2, -1], [2, 2, 2, 2, 2], [2**20 + 1], ["3"], [2.0]])
def test_a_shape_that_is_none_is_refused(shape: list[Any]) -> None:
    problem_of(kind="array", name="a", shape=shape, lower=0, upper=1)


def test_a_record_of_too_many_numbers_is_refused() -> None:
    half = ArrayColumn(name="half", shape=(MAX_WIDTH // 2,), lower=0.0, upper=1.0)
    other = ArrayColumn(name="other", shape=(MAX_WIDTH // 2,), lower=0.0, upper=1.0)
    check_columns([half, other])
    with pytest.raises(ValueError, match="more than 1,048,576 numbers"):
        check_columns([half, other, Real(name="r", lower=0.0, upper=1.0)])


def test_an_array_has_ordered_bounds() -> None:
    assert "lower must be less" in problem_of(kind="array", name="a", shape=[3], lower=1, upper=1)
