"""What a study's terms say of columns that hang together: sums, orders, and columns that another one determines.

Never looks at a record: which constraints there are and that they can hold follows from public terms alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Annotated, Final, Literal

from pydantic import Field, PlainValidator

from .ranges import MOST_UNITS, decimals_of, empty_range, ranges, span
from .schema import MAX_CATEGORIES, MAX_COLUMNS, Categorical, Column, Integer, Name, Real, Strict

MAX_CONSTRAINTS: Final = 64


def _value(value: object) -> object:
    """Return a category or a number, a whole one as such however it was written: one value must have one hash."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be text in quotes or a number")  # noqa: TRY004  (pydantic takes no other)
    if isinstance(value, str) or abs(value) <= MOST_UNITS:
        return int(value) if isinstance(value, float) and value.is_integer() else value
    raise ValueError("must be a finite number, and not so large that it could not be held exactly")


Value = Annotated[str | int | float, PlainValidator(_value)]
"""A category, or a number."""
Several = Annotated[tuple[Name, ...], Field(min_length=2, max_length=MAX_COLUMNS, strict=False)]


class SumOf(Strict):
    """``total`` is the sum of ``parts``, and missing where one of them is."""

    kind: Literal["sum"] = "sum"
    total: Name
    parts: Several


class Order(Strict):
    """No value is greater than one further right in ``columns``; with ``strict``, none is as great, either.

    What is missing is passed over: of ``a, b, c`` with b missing, a and c are in order.
    """

    kind: Literal["order"] = "order"
    columns: Several
    strict: bool = False


class Determines(Strict):
    """``determined`` is what ``table`` gives for ``determinant``: for each category, or each whole number as text.

    Where the determinant is missing, ``missing`` is the value; without it the determined column is missing, too.
    """

    kind: Literal["determines"] = "determines"
    determinant: Name
    determined: Name
    table: Annotated[dict[str, Value], Field(min_length=1, max_length=MAX_CATEGORIES)]
    missing: Value | None = None


Constraint = Annotated[SumOf | Order | Determines, Field(discriminator="kind")]
Constraints = Annotated[tuple[Constraint, ...], Field(max_length=MAX_CONSTRAINTS, strict=False)]


def derived(constraint: SumOf | Determines) -> str:
    """Return the column that a constraint derives from others."""
    return constraint.total if isinstance(constraint, SumOf) else constraint.determined


def free_columns(columns: Sequence[Column], constraints: Sequence[Constraint]) -> tuple[Column, ...]:
    """Return the columns that nothing derives: those a model sees."""
    names = {derived(each) for each in constraints if not isinstance(each, Order)}
    return tuple(column for column in columns if column.name not in names)


def in_turn(constraints: Sequence[Constraint]) -> tuple[SumOf | Determines, ...]:
    """Return the sums and determinations, each after those that derive what it needs.

    Raises:
        CycleError: naming columns that derive each other.
    """
    deriving = {derived(each): each for each in constraints if not isinstance(each, Order)}
    needs = {name: _sources(each) for name, each in deriving.items()}
    return tuple(deriving[name] for name in TopologicalSorter(needs).static_order() if name in deriving)


def answers_of(each: Determines, determinant: Column) -> tuple[Value, ...]:
    """Return what a table gives for every value of its determinant, in the order of these."""
    return tuple(each.table[key] for key in _keys(determinant))


def check_constraints(constraints: Sequence[Constraint], columns: Sequence[Column], target: str) -> None:
    """Refuse constraints that are not about these columns, contradict each other or can never hold.

    Raises:
        ValueError: naming the constraint by its number from 1, the field and what to do.
    """
    by_name = {column.name: column for column in columns}
    for number, each in enumerate(constraints, 1):
        for field, name in _named(each):
            if name not in by_name:
                raise _wrong(number, field, f"{name!r} is not among the columns; name one of them")
        _check_roles(number, each, constraints[: number - 1], target)
        match each:
            case SumOf():
                _check_numbers(number, {each.total: "total"} | dict.fromkeys(each.parts, "parts"), by_name)
                _check_sum(number, each, by_name)
            case Order():
                _check_numbers(number, dict.fromkeys(each.columns, "columns"), by_name)
            case _:
                _check_table(number, each, by_name)
    _check_kinds_apart(constraints)
    _check_no_cycle(constraints)
    impossible = empty_range(ranges(by_name, sums_of(constraints), orders_of(constraints)))
    if impossible is not None:
        number = next(i for i, each in enumerate(constraints, 1) if impossible in _reach(each))
        field = "columns" if isinstance(constraints[number - 1], Order) else "total"
        raise _wrong(number, field, f"can never hold: no value within the bounds of {impossible!r} does; widen them")


def sums_of(constraints: Sequence[Constraint]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return each sum's total and parts, a sum of totals after these."""
    return tuple((each.total, each.parts) for each in in_turn(constraints) if isinstance(each, SumOf))


def orders_of(constraints: Sequence[Constraint]) -> tuple[tuple[tuple[str, ...], int], ...]:
    """Return each order's columns and the least distance of two of them, in units of the last place."""
    return tuple((each.columns, int(each.strict)) for each in constraints if isinstance(each, Order))


def _sources(constraint: SumOf | Determines) -> tuple[str, ...]:
    return constraint.parts if isinstance(constraint, SumOf) else (constraint.determinant,)


def _reach(constraint: Constraint) -> tuple[str, ...]:
    return tuple(name for _, name in _named(constraint))


def _named(constraint: Constraint) -> Iterator[tuple[str, str]]:
    """Yield every column that a constraint names, with the field that does."""
    match constraint:
        case SumOf():
            yield "total", constraint.total
            yield from (("parts", name) for name in constraint.parts)
        case Order():
            yield from (("columns", name) for name in constraint.columns)
        case _:
            yield "determinant", constraint.determinant
            yield "determined", constraint.determined


def _check_roles(number: int, each: Constraint, earlier: Sequence[Constraint], target: str) -> None:
    """Refuse a column named twice, and one that is derived and must not be."""
    seen = set[str]()
    for field, name in _named(each):
        if name in seen:
            raise _wrong(number, field, f"{name!r} is named twice; name each column once")
        seen.add(name)
    if isinstance(each, Order):
        return
    name, field = derived(each), "total" if isinstance(each, SumOf) else "determined"
    if name == target:
        raise _wrong(number, field, f"{name!r} is the target, which the model must see; derive another column")
    if name in (derived(other) for other in earlier if not isinstance(other, Order)):
        raise _wrong(number, field, f"{name!r} is derived by an earlier constraint; leave one of the two out")


def _check_numbers(number: int, fields: Mapping[str, str], by_name: Mapping[str, Column]) -> None:
    """Refuse columns that are no numbers, of different decimals, or whose last place no float64 holds exactly."""
    decimals, most = set[int](), 0
    for name, field in fields.items():
        column = by_name[name]
        if not isinstance(column, Integer | Real):
            raise _wrong(number, field, f"{name!r} is no column of numbers; name integer or real ones")
        decimals.add(decimals_of(column))
        if len(decimals) > 1:
            raise _wrong(number, field, f"{name!r} has other decimals than the rest; give all of them the same")
        if span(column)[0] > span(column)[1]:
            raise _wrong(number, field, f"no number of so few decimals lies within the bounds of {name!r}; widen them")
        most += max(map(abs, span(column)))
    if most > MOST_UNITS:
        raise _wrong(number, field, "bounds so wide with so many decimals cannot be held exactly; lower one of them")


def _check_sum(number: int, each: SumOf, by_name: Mapping[str, Column]) -> None:
    if not by_name[each.total].missing and any(by_name[name].missing for name in each.parts):
        raise _wrong(
            number, "total", f"{each.total!r} is missing where a part is; set `missing = true` for it in the schema"
        )


def _check_table(number: int, each: Determines, by_name: Mapping[str, Column]) -> None:
    """Refuse a table that is not total, or gives what the determined column cannot hold."""
    source, result = by_name[each.determinant], by_name[each.determined]
    if not isinstance(source, Categorical | Integer):
        raise _wrong(number, "determinant", f"{source.name!r} is neither categorical nor integer; name such a column")
    if not isinstance(result, Categorical | Integer | Real):
        raise _wrong(number, "determined", f"{result.name!r} is an array; name a column with one value in each record")
    if isinstance(source, Integer) and source.upper - source.lower >= MAX_CATEGORIES:
        raise _wrong(number, "determinant", f"{source.name!r} has more than {MAX_CATEGORIES} values; narrow its bounds")
    keys = _keys(source)
    lost = next((key for key in keys if key not in each.table), None)
    if lost is not None:
        raise _wrong(number, "table", f"says nothing of {lost!r}; give every value of {source.name!r} one")
    if len(each.table) > len(keys):
        known = set(keys)
        extra = next(key for key in each.table if key not in known)
        raise _wrong(number, "table", f"{extra!r} is no value of {source.name!r}; leave it out")
    bad = _unfit(result, each.table.values())
    if bad is not None:
        raise _wrong(number, "table", f"{bad!r} is no value of {result.name!r}; give one that its schema allows")
    if each.missing is not None and not source.missing:
        raise _wrong(number, "missing", f"{source.name!r} is never missing in this study; leave this out")
    if each.missing is not None and _unfit(result, [each.missing]) is not None:
        raise _wrong(number, "missing", f"{each.missing!r} is no value of {result.name!r}; give one of its schema")
    if each.missing is None and source.missing and not result.missing:
        raise _wrong(
            number,
            "missing",
            f"say which value {result.name!r} has where {source.name!r} is missing, or let it be missing in the schema",
        )


def _unfit(column: Categorical | Integer | Real, values: Iterable[Value]) -> Value | None:
    """Return the first value that a column cannot hold exactly as it would be written; None where it holds all."""
    if isinstance(column, Categorical):
        known = frozenset(column.values)  # both may be thousands long
        return next((value for value in values if value not in known), None)
    return next((value for value in values if not _is_written(column, value)), None)


def _is_written(column: Integer | Real, value: Value) -> bool:
    """Return whether a value is a number within a column's bounds, with no more decimals than it has."""
    if isinstance(value, str) or (isinstance(column, Integer) and not isinstance(value, int)):
        return False
    return column.lower <= value <= column.upper and round(value, decimals_of(column)) == value


def _check_kinds_apart(constraints: Sequence[Constraint]) -> None:
    """Refuse columns in two constraints of which a repair of the one could break the other."""
    tabled = {each.determined for each in constraints if isinstance(each, Determines)}
    summed = {name for each in constraints if isinstance(each, SumOf) for name in _reach(each)}
    parts = set[str]()
    for number, each in enumerate(constraints, 1):
        if isinstance(each, Determines):
            continue
        for field, name in _named(each):
            if name in tabled:
                raise _wrong(number, field, f"{name!r} is determined by another column; leave it out of one of the two")
            if isinstance(each, Order) and name in summed:
                raise _wrong(number, field, f"{name!r} is in a sum, too; leave it out of one of the two")
            if field == "parts" and name in parts:
                raise _wrong(number, field, f"{name!r} is part of an earlier sum; leave it out of one of the two")
            parts |= {name} if field == "parts" else set()


def _check_no_cycle(constraints: Sequence[Constraint]) -> None:
    before: dict[str, set[str]] = {}
    for number, each in enumerate(constraints, 1):
        edges = pairwise(each.columns) if isinstance(each, Order) else _edges(each)
        for source, result in edges:
            before.setdefault(result, set()).add(source)
        try:
            TopologicalSorter(before).prepare()
        except CycleError as error:
            field = {"sum": "parts", "order": "columns", "determines": "determinant"}[each.kind]
            circle = " -> ".join(map(repr, error.args[1]))
            raise _wrong(number, field, f"closes a circle ({circle}); leave one of its steps out") from None


def _edges(constraint: SumOf | Determines) -> Iterator[tuple[str, str]]:
    return ((source, derived(constraint)) for source in _sources(constraint))


def _keys(determinant: Column) -> tuple[str, ...]:
    """Return a determinant's values as its table names them, in their order; other columns have none."""
    if isinstance(determinant, Categorical):
        return determinant.values
    return tuple(map(str, range(determinant.lower, determinant.upper + 1))) if isinstance(determinant, Integer) else ()


def _wrong(number: int, field: str, problem: str) -> ValueError:
    return ValueError(f"constraint {number}: {field}: {problem}")
