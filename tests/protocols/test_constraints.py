"""Constraints in the terms: what is refused and where, and what no record can get past."""

import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.protocols.federation import terms

from synthfed.protocols.completion import Completion
from synthfed.protocols.constraints import MAX_CONSTRAINTS
from synthfed.protocols.errors import describe
from synthfed.protocols.schema import MAX_CATEGORIES, Categorical, Column, Integer, Real, Records
from synthfed.protocols.study import Study

TARGET = {"name": "ill", "kind": "categorical", "values": ["no", "yes"]}


def integer(name: str, lower: int = 0, upper: int = 9, *, missing: bool = False) -> dict[str, Any]:
    return {"name": name, "kind": "integer", "lower": lower, "upper": upper, "missing": missing}


def real(name: str, lower: float = 0, upper: float = 9, decimals: int = 2) -> dict[str, Any]:
    return {"name": name, "kind": "real", "lower": lower, "upper": upper, "decimals": decimals}


def category(name: str, *values: str, missing: bool = False) -> dict[str, Any]:
    return {"name": name, "kind": "categorical", "values": values, "missing": missing}


def total(name: str, *parts: str) -> dict[str, Any]:
    return {"kind": "sum", "total": name, "parts": parts}


def order(*names: str, strict: bool = False) -> dict[str, Any]:
    return {"kind": "order", "columns": names, "strict": strict}


def determines(determinant: str, determined: str, table: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "determines", "determinant": determinant, "determined": determined, "table": table, **more}


def study(columns: list[dict[str, Any]], *constraints: dict[str, Any]) -> Study:
    return Study.model_validate({**terms(), "columns": [TARGET, *columns], "constraints": constraints})


ABC = [integer("a"), integer("b"), integer("c", upper=18)]
LEVELS = {"low": 1, "high": 2}
WIDE = [real(name, -(2**50), 2**50, 6) for name in ("a", "b")]


@pytest.mark.parametrize(
    ("columns", "constraints", "problem"),
    [
        (ABC, [{"kind": "product"}], "constraint 1: kind: must be one of 'sum', 'order', 'determines' (is 'product')"),
        (ABC, [total("c", "a")], "constraint 1: parts: must list at least 2 (lists 1)"),
        (ABC, [order("a", "b"), total("c", "a", "z")], "constraint 2: parts: 'z' is not among the columns"),
        (ABC, [order("a", "z")], "constraint 1: columns: 'z' is not among the columns"),
        (ABC, [order("a", "a")], "constraint 1: columns: 'a' is named twice"),
        (ABC, [total("c", "a", "a")], "constraint 1: parts: 'a' is named twice"),
        (ABC, [total("c", "c", "a")], "constraint 1: parts: 'c' is named twice"),
        ([], [determines("z", "ill", {"0": "no"})], "constraint 1: determinant: 'z' is not among the columns"),
        (
            [category("x", "n", "y")],
            [determines("x", "ill", {"n": "no", "y": "yes"})],
            "constraint 1: determined: 'ill' is the target",
        ),
        (ABC, [total("c", "a", "b"), total("c", "b", "a")], "constraint 2: total: 'c' is derived by an earlier"),
        (ABC, [total("ill", "a", "b")], "constraint 1: total: 'ill' is the target"),
        (ABC, [total("c", "a", "ill")], "constraint 1: parts: 'ill' is no column of numbers"),
        (ABC, [order("a", "ill")], "constraint 1: columns: 'ill' is no column of numbers"),
        ([integer("a"), real("b")], [order("a", "b")], "constraint 1: columns: 'b' has other decimals than the rest"),
        (
            [real("a", 0.2, 0.3, 0), real("b", 0, 9, 0)],
            [order("a", "b")],
            "constraint 1: columns: no number of so few decimals lies within the bounds of 'a'",
        ),
        (WIDE, [order("a", "b")], "constraint 1: columns: bounds so wide with so many decimals"),
        (
            [integer("a", missing=True), integer("b"), integer("c", upper=18)],
            [total("c", "a", "b")],
            "constraint 1: total: 'c' is missing where a part is; set `missing = true`",
        ),
        (
            [real("a"), integer("b")],
            [determines("a", "b", {"1": 1})],
            "constraint 1: determinant: 'a' is neither categorical nor integer",
        ),
        (
            [{"name": "p", "kind": "array", "shape": [2], "lower": 0, "upper": 1}],
            [determines("ill", "p", {"no": 0, "yes": 1})],
            "constraint 1: determined: 'p' is an array",
        ),
        (
            [integer("a", 0, 4096), integer("b")],
            [determines("a", "b", {"0": 1})],
            "constraint 1: determinant: 'a' has more than 4096 values",
        ),
        (ABC, [determines("ill", "a", {"no": True, "yes": 1})], "constraint 1: table.no: must be text in quotes or a"),
        (ABC, [determines("ill", "a", {"no": [1], "yes": 1})], "constraint 1: table.no: must be text in quotes or a"),
        (ABC, [determines("ill", "a", {"no": 1, "yes": np.inf})], "constraint 1: table.yes: must be a finite number"),
        (ABC, [determines("ill", "a", {"no": np.nan, "yes": 1})], "constraint 1: table.no: must be a finite number"),
        (ABC, [determines("ill", "a", LEVELS, missing=2**60)], "constraint 1: missing: must be a finite number"),
        (ABC, [determines("ill", "a", {"no": 1})], "constraint 1: table: says nothing of 'yes'"),
        (ABC, [determines("ill", "a", {"no": 1, "yes": 2, "?": 3})], "constraint 1: table: '?' is no value of 'ill'"),
        (ABC, [determines("ill", "a", {"no": 1, "yes": 10})], "constraint 1: table: 10 is no value of 'a'"),
        (ABC, [determines("ill", "a", {"no": 1, "yes": 1.5})], "constraint 1: table: 1.5 is no value of 'a'"),
        (ABC, [determines("ill", "a", {"no": 1, "yes": "2"})], "constraint 1: table: '2' is text and 'a' holds"),
        (
            [category("l", "1", "2")],
            [determines("ill", "l", {"no": 1, "yes": 2})],
            "constraint 1: table: 1 is a number and 'l' is categorical; give one of its categories, in quotes",
        ),
        ([real("a")], [determines("ill", "a", {"no": 1, "yes": 1.234})], "constraint 1: table: 1.234 is no value"),
        ([category("l", *LEVELS)], [determines("ill", "l", {"no": "low", "yes": "?"})], "constraint 1: table: '?' is"),
        (
            ABC,
            [determines("ill", "a", {"no": 1, "yes": 2}, missing=3)],
            "constraint 1: missing: 'ill' is never missing in this study",
        ),
        (
            [category("l", *LEVELS, missing=True), integer("a")],
            [determines("l", "a", LEVELS, missing=99)],
            "constraint 1: missing: 99 is no value of 'a'",
        ),
        (
            [category("l", *LEVELS, missing=True), integer("a")],
            [determines("l", "a", LEVELS)],
            "constraint 1: missing: say which value 'a' has where 'l' is missing",
        ),
        (
            [category("l", *LEVELS), *ABC],
            [determines("l", "a", LEVELS), order("a", "b")],
            "constraint 2: columns: 'a' is determined by another column",
        ),
        (ABC, [total("c", "a", "b"), order("a", "c")], "constraint 2: columns: 'a' is in a sum, too"),
        (
            [*ABC, integer("d"), integer("e", upper=18)],
            [total("c", "a", "b"), total("e", "a", "d")],
            "constraint 2: parts: 'a' is part of an earlier sum",
        ),
        (ABC, [order("a", "b"), order("b", "c"), order("c", "a")], "constraint 3: columns: closes a circle ("),
        (
            [integer(name) for name in "abcd"],
            [total("a", "b", "c"), total("b", "a", "d")],
            "constraint 2: parts: closes a circle (",
        ),
        (
            [category("l", *LEVELS), category("m", *LEVELS)],
            [determines("l", "m", {"low": "low", "high": "high"}), determines("m", "l", {"low": "low", "high": "low"})],
            "constraint 2: determinant: closes a circle (",
        ),
        (
            [integer("a", 5, 9), integer("b", 5, 9), integer("c", 0, 9)],
            [total("c", "a", "b")],
            "constraint 1: total: can never hold: no value within the bounds of 'c' does; widen them",
        ),
        (
            [integer("a", 5, 9), integer("b", 0, 4)],
            [order("a", "b")],
            "constraint 1: columns: can never hold: no value within the bounds of 'a' does",
        ),
        (
            [integer("a", 0, 1), integer("b", 0, 1), integer("c", 0, 1)],
            [order("a", "b", "c", strict=True)],
            "constraint 1: columns: can never hold",
        ),
    ],
)
def test_terms_that_cannot_be_kept_are_refused_with_the_constraint_and_the_field(
    columns: list[dict[str, Any]], constraints: list[dict[str, Any]], problem: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        study(columns, *constraints)
    fields = {**terms(), "columns": [TARGET, *columns], "constraints": constraints}
    assert describe(caught.value, fields).startswith(problem)


def test_a_model_sees_the_columns_that_nothing_derives() -> None:
    made = study([category("l", *LEVELS), *ABC], determines("ill", "l", {"no": "low", "yes": "high"}), order("a", "b"))
    assert [column.name for column in made.free.columns] == ["ill", "a", "b", "c"]
    assert made.free.constraints == ()
    plain = study(ABC)
    assert plain.free is plain


@pytest.mark.parametrize(("missing", "written"), [({}, np.nan), ({"missing": 5.0}, 5.0)])
def test_a_missing_determinant_leaves_the_determined_missing_or_at_its_declared_value(
    missing: dict[str, Any], written: float
) -> None:
    columns = [category("l", *LEVELS, missing=True), integer("a", missing=True)]
    completion = of(study(columns, determines("l", "a", LEVELS, **missing)))
    records, kept = completion.complete(np.array([[0, 0], [0, 1], [1, np.nan]]))
    np.testing.assert_array_equal(records[:, 2], [1, 2, written])
    assert kept.all()
    assert completion.broken(records) == (0,)


def test_a_whole_number_determines_categories_from_its_own_lower_bound_on() -> None:
    columns = [integer("a", -1, 1), category("l", *LEVELS)]
    completion = of(study(columns, determines("a", "l", {"-1": "high", "0": "low", "1": "high"})))
    records, _ = completion.complete(np.array([[0.0, -1.2], [0, 0], [0, 77]]))
    np.testing.assert_array_equal(records, [[0, -1, 1], [0, 0, 0], [0, 1, 1]])


def test_what_is_present_is_in_order_across_what_is_missing() -> None:
    ordered = of(study([integer("a"), integer("b", missing=True), integer("c")], order("a", "b", "c", strict=True)))
    records, kept = ordered.complete(np.array([[0, 7, np.nan, 3], [0, 3, np.nan, 4], [0, 9, np.nan, 9], [0, 1, 2, 3]]))
    assert kept.tolist() == [False, True, False, True]
    repaired = ordered.repair(records)
    np.testing.assert_array_equal(repaired, [[0, 3, np.nan, 7], [0, 3, np.nan, 4], [0, 7, np.nan, 9], [0, 1, 2, 3]])


def test_arrays_keep_their_places_beside_what_is_derived() -> None:
    pixels = {"name": "p", "kind": "array", "shape": [2, 2], "lower": 0, "upper": 9}
    completion = of(study([integer("a"), pixels, integer("b")], determines("ill", "a", {"no": 4, "yes": 5})))
    whole = np.array([[1.0, 5, 6, 7, 8, 9, 3]])
    np.testing.assert_array_equal(completion.reduce(whole), [[1, 6, 7, 8, 9, 3]])
    np.testing.assert_array_equal(completion.complete(completion.reduce(whole))[0], whole)


def test_a_repair_may_change_the_columns_of_orders_and_sums_and_no_others() -> None:
    columns = [*map(integer, "abcde"), integer("f")]
    assert of(study(columns, order("a", "b"))).movable == {"a", "b"}
    assert of(study(columns, order("a", "b"), total("c", "d", "e"))).movable == {"a", "b", "c", "d", "e"}


def test_broken_rows_are_counted_by_constraint() -> None:
    columns = [*ABC, integer("d", missing=True), category("l", *LEVELS)]
    made = study(columns, total("c", "a", "b"), determines("ill", "l", {"no": "low", "yes": "high"}))
    records = np.array([[0, 1, 2, 3, 4, 0], [1, 1, 2, 4, np.nan, 0], [1, 1, 2, 2, 9, 1]])
    assert of(made).broken(records) == (2, 1)
    ordered = study(columns, order("a", "d", "b", strict=True))
    assert of(ordered).broken(records) == (2,)


def test_a_repair_swaps_what_is_out_of_order_and_shares_what_is_too_much() -> None:
    ordered = of(study([integer("a"), integer("b")], order("a", "b")))
    records, kept = ordered.complete(np.array([[0, 7.0, 2.0], [0, 1, 1]]))
    assert kept.tolist() == [False, True]
    np.testing.assert_array_equal(ordered.repair(records), [[0, 2, 7], [0, 1, 1]])
    summed = of(study([integer("a"), integer("b"), integer("c", 0, 6)], total("c", "a", "b")))
    records, kept = summed.complete(np.array([[0, 9, 3.0]]))
    assert not kept.any()
    np.testing.assert_array_equal(summed.repair(records), [[0, 4, 2, 6]])


def of(made: Study) -> Completion:
    return Completion(made.columns, made.constraints)


@st.composite
def bounds(draw: st.DrawFn) -> tuple[int, int]:
    lower = draw(st.integers(-20, 20))
    return lower, lower + draw(st.integers(1, 25))


def numbers(draw: st.DrawFn, names: str, decimals: int) -> list[dict[str, Any]]:
    """Return columns of numbers, written with so many decimals, integers where there are none."""
    found = []
    for name in names:
        lower, upper = draw(bounds())
        missing = draw(st.booleans())
        if decimals:
            # Bounds between the numbers that can be written, too.
            column = real(name, (lower - 0.3) / 10**decimals, (upper + 0.4) / 10**decimals, decimals)
            found.append({**column, "missing": missing})
        else:
            found.append(integer(name, lower, upper, missing=missing))
    return found


@st.composite
def studies(draw: st.DrawFn) -> Study:
    """Return a study with sums of sums, orders that share columns, and a chain of determinations, if it can hold."""
    columns = numbers(draw, "abcde", draw(st.integers(0, 3))) + numbers(draw, "uvwxy", draw(st.integers(0, 2)))
    for name in ("d", "e"):
        next(each for each in columns if each["name"] == name)["missing"] = True
    levels = [str(value) for value in range(3)]
    columns += [category("l", *levels, missing=draw(st.booleans())), category("m", *levels, missing=True)]
    columns += [integer("n", 0, 9, missing=True)]
    constraints = [
        total("d", "a", "b"),
        total("e", "d", "c"),
        order("u", "v", "w", strict=draw(st.booleans())),
        order("u", "x", "w", strict=draw(st.booleans())),
        order("y", "x", strict=draw(st.booleans())),
        determines("m", "n", {"0": 3, "1": 4, "2": 3}, missing=draw(st.sampled_from([None, 9]))),
        determines("l", "m", {"0": "2", "1": "0", "2": "1"}),
    ]
    kept = draw(st.permutations(constraints))[: draw(st.integers(1, len(constraints)))]
    try:
        return study(draw(st.permutations(columns)), *kept)
    except ValidationError as error:
        assert "can never hold" in str(error)  # what is drawn breaks no other rule
        reject()


def made_up(columns: tuple[Column, ...], rng: np.random.Generator, rows: int) -> Records:
    """Return any records that columns can hold, also unrounded and beyond the bounds of numbers."""
    drawn = []
    for column in columns:
        if isinstance(column, Categorical):
            drawn.append(rng.integers(len(column.values), size=rows).astype(float))
        elif isinstance(column, Integer | Real):
            width = column.upper - column.lower
            drawn.append(rng.uniform(column.lower - 0.1 * width, column.upper + 0.1 * width, rows))
    records = np.column_stack(drawn)
    absent = np.array([column.missing for column in columns]) & (rng.random(records.shape) < 0.2)
    return np.where(absent, np.nan, records)


def check_kept(made: Study, records: Records) -> None:
    """Look at every constraint with numbers as texts, as a reader of the file does."""
    place = {column.name: i for i, column in enumerate(made.columns)}
    by_name = {column.name: column for column in made.columns}

    def cell(row: Any, name: str) -> int | None:
        column, value = by_name[name], row[place[name]]
        if np.isnan(value):
            assert column.missing
            return None
        if isinstance(column, Categorical):
            return int(value)
        assert column.lower <= value <= column.upper
        decimals = column.decimals if isinstance(column, Real) else 0
        text = f"{value:.{decimals}f}"
        assert float(text) == value
        assert text != "-0"
        return int(text.replace(".", ""))

    for row in records:
        for each in made.constraints:
            match each.kind:
                case "sum":
                    parts = [cell(row, name) for name in each.parts]
                    assert cell(row, each.total) == (None if None in parts else sum(p for p in parts if p is not None))
                case "order":
                    present = [found for name in each.columns if (found := cell(row, name)) is not None]
                    assert all(b - a >= each.strict for a, b in pairwise(present))
                case "determines":
                    source, answer, result = cell(row, each.determinant), each.missing, by_name[each.determined]
                    if source is not None:
                        determinant = by_name[each.determinant]
                        key = determinant.values[source] if isinstance(determinant, Categorical) else str(source)
                        answer = each.table[key]
                    if isinstance(result, Categorical) and answer is not None:
                        answer = result.values.index(str(answer))
                    assert cell(row, each.determined) == answer


@settings(max_examples=150, deadline=None)
@given(made=studies(), seed=st.integers(0, 2**32))
def test_whatever_a_model_samples_keeps_every_constraint_after_the_repair(made: Study, seed: int) -> None:
    completion = of(made)
    free = made_up(made.free.columns, np.random.default_rng(seed), 40)
    records, kept = completion.complete(free)
    check_kept(made, records[kept])
    repaired = completion.repair(records)
    check_kept(made, repaired)
    np.testing.assert_array_equal(repaired[kept], records[kept])
    assert completion.broken(repaired) == (0,) * len(made.constraints)


@settings(max_examples=50, deadline=None)
@given(made=studies(), seed=st.integers(0, 2**32))
def test_records_that_keep_every_constraint_come_back_from_their_free_columns(made: Study, seed: int) -> None:
    completion = of(made)
    records, kept = completion.complete(made_up(made.free.columns, np.random.default_rng(seed), 20))
    again, _ = completion.complete(completion.reduce(records[kept]))
    np.testing.assert_array_equal(again, records[kept])


def test_the_longest_tables_cost_terms_and_records_next_to_nothing() -> None:
    values = [f"{'code':>60} {i}" for i in range(MAX_CATEGORIES)]
    names = [f"level{i}" for i in range(MAX_CONSTRAINTS)]
    columns = [TARGET, *(category(name, *values) for name in ("code", *names))]
    table = dict(zip(values, reversed(values), strict=True))
    before = time.process_time()
    made = study(columns[1:], *(determines("code", name, table) for name in names))
    completion = Completion(made.columns, made.constraints)
    records, kept = completion.complete(np.array([[0.0, 3.0], [1.0, MAX_CATEGORIES - 1]]))
    assert completion.broken(records) == (0,) * MAX_CONSTRAINTS
    assert time.process_time() - before < 4.0  # searched for one by one, they took more than ten
    assert kept.all()
    assert (records[:, 2:] == MAX_CATEGORIES - 1 - records[:, [1]]).all()
