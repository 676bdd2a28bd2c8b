"""The same table from every source: what is read, what is never read, what is left out and what is refused."""

import csv
import datetime
import doctest
import logging
import sqlite3
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthfed.plugins.api import Keep, Table
from synthfed.plugins.domains import parts
from synthfed.plugins.domains.databases import files_behind
from synthfed.plugins.domains.ehr import EhrDomain
from synthfed.plugins.domains.table import TableDomain
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import Categorical, Integer, Real, Scalar

COLUMNS: tuple[Scalar, ...] = (
    Categorical(name="ward", values=("a", "7", "true"), missing=True),
    Integer(name="visits", lower=-3, upper=90, missing=True),
    Real(name="cost", lower=0.0, upper=400.0, decimals=2),
)
NAMES = ("person", "ward", "visits", "cost", "note")
Rows = Sequence[Sequence[Any]]
GOOD: Rows = (("p1", "a", 3, 10.5, "x"), ("p2", None, None, 0.0, "y"), (" p1", "7", 90, 400.0, None))
BAD: Rows = (
    *GOOD,
    ("p3", "SECRET", 91, 1.0, ""),  # two problems in one row
    (None, "a", 3, -0.5, ""),
    ("p4", "a", -4, None, ""),
    ("p4", "a", 3, 1.0, ""),
)


def private(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def write_csv(folder: Path, rows: Rows, names: Sequence[str] = NAMES) -> Path:
    path = folder / "site.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def write_parquet(folder: Path, rows: Rows, names: Sequence[str] = NAMES) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    arrays = [pyarrow.array(column) for column in zip(*rows, strict=True)]
    parquet.write_table(pyarrow.table(arrays, list(names)), folder / "site.parquet", row_group_size=2)
    return folder / "site.parquet"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def write_sqlite(folder: Path, rows: Rows, names: Sequence[str] = NAMES) -> Path:
    with sqlite3.connect(folder / "site.db") as database:
        database.execute(f"create table patients ({', '.join(map(quoted, names))})")
        marks = ", ".join("?" * len(names))
        database.executemany(f"insert into patients values ({marks})", rows)  # noqa: S608
    database.close()
    return private(folder / "site.toml", 'format = 1\nurl = "sqlite:///site.db"\ntable = "patients"\n')


Write = Callable[[Path, Rows, Sequence[str]], Path]
SOURCES = pytest.mark.parametrize("write", [write_csv, write_parquet, write_sqlite])


def read(path: Path, columns: Sequence[Scalar] = COLUMNS, *, unit: str | None = "person", drop: bool = False) -> Table:
    return TableDomain().read(path, columns, unit=unit, records_per_unit=2, drop_invalid=drop)


@SOURCES
def test_every_source_gives_the_same_records_units_and_names(tmp_path: Path, write: Write) -> None:
    table = read(write(tmp_path, GOOD, NAMES))
    np.testing.assert_array_equal(table.records, [[0, 3, 10.5], [np.nan, np.nan, 0], [1, 90, 400]])
    assert table.units.tolist() == [0, 1, 0]
    assert table.names == frozenset(NAMES)
    assert (table.dropped, table.problems) == (0, ())


PROBLEMS = (
    "column 'ward' has 1 row(s) with a value that is not among its categories",
    "column 'visits' has 1 row(s) with a value out of bounds (below them)",
    "column 'visits' has 1 row(s) with a value out of bounds (above them)",
    "column 'cost' has 1 row(s) with an empty cell",
    "column 'cost' has 1 row(s) with a value out of bounds (below them)",
    "unit column 'person' has 1 row(s) with an empty cell",
)


@SOURCES
def test_all_problems_are_told_at_once_with_their_rows_and_without_a_value(tmp_path: Path, write: Write) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, BAD, NAMES))
    message = str(caught.value)
    assert ": 6 problems:\n" in message
    assert all(problem in message for problem in PROBLEMS)
    assert "SECRET" not in message


@SOURCES
def test_rows_that_do_not_fit_are_left_out_whole_and_counted(tmp_path: Path, write: Write) -> None:
    table = read(write(tmp_path, BAD, NAMES), drop=True)
    np.testing.assert_array_equal(table.records, [[0, 3, 10.5], [np.nan, np.nan, 0], [1, 90, 400], [0, 3, 1]])
    assert table.units.tolist() == [0, 1, 0, 2]
    assert table.dropped == 3
    assert len(table.problems) == 6
    assert all(told.startswith(problem) for told, problem in zip(table.problems, sorted_as(table), strict=True))


def sorted_as(table: Table) -> list[str]:
    """Return the known problems in the order in which a table tells them."""
    return [next(problem for problem in PROBLEMS if told.startswith(problem)) for told in table.problems]


@SOURCES
def test_a_site_of_which_nothing_is_left_is_refused(tmp_path: Path, write: Write) -> None:
    with pytest.raises(DataError, match="smaller than its contribution bound"):
        read(write(tmp_path, BAD[3:6], NAMES), drop=True)


def test_lines_of_another_length_are_left_out_and_counted_too(tmp_path: Path) -> None:
    path = write_csv(tmp_path, [*GOOD, ("p9", "a")])
    with pytest.raises(DataError, match=r"1 row\(s\) have more or fewer cells than the header's 5"):
        read(path)
    table = read(path, drop=True)
    assert (len(table.records), table.dropped) == (3, 1)
    assert "more or fewer cells" in table.problems[0]


@SOURCES
def test_units_with_too_many_rows_are_refused_whatever_is_left_out(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path, [*GOOD, ("p1", "a", 3, 1.0, "")], NAMES)
    for drop in (False, True):
        with pytest.raises(DataError, match=r"unit column 'person' has 1 unit\(s\) with more than 2 rows"):
            read(path, drop=drop)


def test_a_units_rows_are_counted_after_those_that_do_not_fit_are_gone(tmp_path: Path) -> None:
    path = write_csv(tmp_path, [*GOOD, ("p1", "SECRET", 3, 1.0, "")])
    assert read(path, drop=True).units.tolist() == [0, 1, 0]


def test_where_many_measurements_are_out_of_bounds_no_row_may_be_left_out(tmp_path: Path) -> None:
    """Else one more record could decide whether others are left out or read as missing."""
    path = write_csv(tmp_path, [("p", "a", 500, 1.0, ""), *[("p", "a", 3, 1.0, "")] * 9])
    for drop in (False, True):
        with pytest.raises(DataError, match=r"column 'visits' has 1 row\(s\) with a value out of bounds"):
            EhrDomain().read(path, COLUMNS, unit=None, records_per_unit=1, drop_invalid=drop)


@SOURCES
@pytest.mark.parametrize("name", ['x"; drop table patients; --', "per%cent :colon", "visits.more", "sélection"])
def test_a_column_of_any_name_is_read_and_no_other(tmp_path: Path, write: Write, name: str) -> None:
    rows = [(1, 2), (3, 4)]
    path = write(tmp_path, rows, (name, "visits"))
    for wanted, expected in ((name, [[1], [3]]), ("visits", [[2], [4]])):
        table = read(path, (Integer(name=wanted, lower=0, upper=9),), unit=None)
        assert table.records.tolist() == expected


@SOURCES
def test_a_column_that_is_not_there_is_named(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path, GOOD, NAMES)
    with pytest.raises(DataError, match="lacks column 'year' and 1 further"):
        read(path, (Integer(name="year", lower=0, upper=9), Integer(name="age", lower=0, upper=9)))


@SOURCES
def test_a_schema_can_be_drafted_from_every_source(tmp_path: Path, write: Write) -> None:
    rows = [(f"p{i}", "ab"[i % 2], i, i / 8) for i in range(100)]
    path = write(tmp_path, rows, ("person", "letter", "count", "share"))
    letter, count, share = TableDomain().draft(path, exclude=["person"])
    assert letter == Categorical(name="letter", values=("a", "b"))
    assert count == Integer(name="count", lower=0, upper=99)
    assert share == Real(name="share", lower=0, upper=13, decimals=3)
    assert len(read(path, (letter, count, share)).records) == 100


def test_a_cell_of_a_column_that_is_not_asked_for_may_be_a_whole_document(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    rows = [(*row[:4], 'a "quoted",\n' * 100_000) for row in GOOD]
    assert len(read(write_csv(tmp_path, rows)).records) == 3
    assert csv.field_size_limit() == limit


def test_a_parquet_column_that_is_not_asked_for_is_never_decoded(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, GOOD, NAMES)
    parquet = pytest.importorskip("pyarrow.parquet")
    with parquet.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i).column(4) for i in range(file.metadata.num_row_groups)]
        spans = [(each.dictionary_page_offset or each.data_page_offset, each.total_compressed_size) for each in groups]
    content = bytearray(path.read_bytes())
    for start, size in spans:
        content[start : start + size] = b"\xff" * size
    path.write_bytes(content)
    assert len(read(path).records) == 3
    with pytest.raises(ConfigError, match="is not a complete Parquet file"):
        read(path, (Categorical(name="note", values=("x", "y"), missing=True),))


def test_a_view_whose_other_columns_cannot_be_computed_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_sqlite(tmp_path, GOOD)
    with sqlite3.connect(tmp_path / "site.db") as database:
        database.execute("create view poisoned as select *, abs(-9223372036854775807 - 1) as poison from patients")
    database.close()
    private(path, path.read_text().replace('"patients"', '"poisoned"'))
    caplog.set_level(logging.INFO, "sqlalchemy.engine")
    table = read(path)
    assert "poison" in table.names
    assert len(table.records) == 3
    selected = [record.getMessage() for record in caplog.records if "poisoned" in record.getMessage()]
    asked = [text for text in selected if text.startswith("SELECT")]
    assert [" ".join(text.split()) for text in asked] == [
        'SELECT "poisoned"."ward", "poisoned"."visits", "poisoned"."cost", "poisoned"."person" FROM "poisoned"'
    ]
    with pytest.raises(ConfigError, match=r"refuses to read the table or query \(OperationalError\)"):
        read(path, (Integer(name="poison", lower=0, upper=9),), unit=None)


def test_a_query_is_read_by_the_declared_columns_alone(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path, GOOD)
    query = "select ward, visits, cost, 'a:b %' as more, abs(-9223372036854775807 - 1) as poison from patients;"
    private(path, f'format = 1\nurl = "sqlite:///site.db"\nquery = "{query}"\n')
    table = read(path, unit=None)
    assert table.names == {"ward", "visits", "cost", "more", "poison"}
    assert len(table.records) == 3


DAY = datetime.date(2024, 3, 1)
TYPED: Rows = ((1, True, DAY, Decimal("1.50"), 2.0), (2, False, None, Decimal("0.25"), 3.0))
TYPED_NAMES = ("number", "truth", "day", "price", "stage")


def test_typed_columns_become_numbers_and_categories(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, TYPED, TYPED_NAMES)
    columns = (
        Categorical(name="number", values=("1", "2")),
        Categorical(name="truth", values=("false", "true")),
        Categorical(name="day", values=("2024-03-01",), missing=True),
        Categorical(name="price", values=("0.25", "1.50")),
        Categorical(name="stage", values=("2", "3")),
    )
    np.testing.assert_array_equal(read(path, columns, unit="number").records, [[0, 1, 0, 1, 0], [1, 0, np.nan, 0, 1]])
    reals = tuple(Real(name=name, lower=0, upper=9) for name in ("number", "truth", "price", "stage"))
    np.testing.assert_array_equal(read(path, reals, unit=None).records, [[1, 1, 1.5, 2], [2, 0, 0.25, 3]])


@pytest.mark.parametrize(
    ("cell", "column", "unit", "message"),
    [
        (DAY, Integer(name="c", lower=0, upper=9), None, "is of type date32, but the schema has a number"),
        ([1], Integer(name="c", lower=0, upper=9), None, "is of type list, but the schema has a number"),
        ({"SECRET": 1}, Categorical(name="c", values=("a",)), None, "is of type struct, but the schema has categories"),
        (b"a", Categorical(name="c", values=("a",)), None, "is of type binary, but the schema has categories"),
        (datetime.datetime(2024, 3, 1), Categorical(name="c", values=("a",)), None, "is of type timestamp, but"),
        (1.0, Integer(name="other", lower=0, upper=9), "c", "is of type double, but it names units"),
    ],
)
def test_a_parquet_type_that_cannot_be_what_the_schema_says_is_refused(
    tmp_path: Path, cell: object, column: Scalar, unit: str | None, message: str
) -> None:
    path = write_parquet(tmp_path, [(cell, 1)], ("c", "other"))
    with pytest.raises(DataError, match=f"column 'c' {message}") as caught:
        TableDomain().read(path, (column,), unit=unit, records_per_unit=1)
    assert "SECRET" not in str(caught.value)


def test_text_that_writes_numbers_and_a_pandas_category_are_read(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    wards = pyarrow.array(["a", None, "7"]).dictionary_encode()
    table = pyarrow.table({"ward": wards, "visits": ["1", "", None], "cost": [0.5, 1.0, 2.0]})
    parquet.write_table(table, tmp_path / "a.parquet")
    records = read(tmp_path / "a.parquet", unit=None).records
    np.testing.assert_array_equal(records, [[0, 1, 0.5], [np.nan, np.nan, 1], [1, np.nan, 2]])


def test_a_number_that_is_none_is_no_missing_value(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, [("a", float("nan"), 1.0), ("a", None, 1.0)], ("ward", "visits", "cost"))
    with pytest.raises(DataError, match=r"column 'visits' has 1 row\(s\) with a cell that is not a number"):
        read(path, unit=None)
    with pytest.raises(DataError, match=r"column 'visits' has 1 row\(s\) with a cell that is not a number"):
        read(write_sqlite(tmp_path, [("p", "a", "SECRET", 1.0, ""), ("q", "a", None, 1.0, "")]))


def test_a_text_of_a_parquet_file_that_is_not_utf_8_is_refused_without_its_bytes(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    offsets = pyarrow.array([0, 1, 3], pyarrow.int32()).buffers()[1]
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 2, [None, offsets, pyarrow.py_buffer(b"a\xffS")])
    path = tmp_path / "site.parquet"
    parquet.write_table(pyarrow.table({"ward": texts, "person": texts}), path)
    for columns, unit in ((COLUMNS[:1], None), ((Real(name="ward", lower=0, upper=1),), None), (COLUMNS[:1], "person")):
        with pytest.raises(DataError, match="holds a text that is not UTF-8") as caught:
            read(path, columns, unit=unit)
        assert "ff" not in str(caught.value)
        assert caught.value.__suppress_context__


def test_a_database_whose_catalogue_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    path = write_sqlite(tmp_path, GOOD)
    (file, *_) = files_behind(path)
    whole = file.read_bytes()
    assert b"visits" in whole
    file.write_bytes(whole.replace(b"visits", b"visit\xff"))
    with pytest.raises(ConfigError, match="refuses to read the table or query"):
        read(path)


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    whole = write_parquet(tmp_path, GOOD, NAMES).read_bytes()
    for content in (b"", b"PAR1", whole[:-30], whole[:40] + whole[60:]):
        path = tmp_path / "broken.parquet"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="is not a complete Parquet file; write it again"):
            read(path)
    for path, message in ((tmp_path / "none.parquet", "does not exist"), (tmp_path, "is not a regular file")):
        with pytest.raises(ConfigError, match=message):
            read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('url = "sqlite:///site.db"', "format: is missing"),
        ('format = 1\nurl = "sqlite:///site.db"', "needs either `table` or `query`"),
        ('format = 1\nurl = "sqlite:///site.db"\nschema = "a"\nquery = "select 1"', "a `schema` without a `table`"),
        ('format = 1\nurl = "sqlite:///site.db"\ntable = "t"\ncolour = 1', "colour: is not a known field"),
        ('format = 1\nurl = "sqlite:///site.db"\ntable = "none"', "has no such table"),
        ('format = 1\nurl = "sqlite:///site.db"\nquery = "select SECRET"', r"refuses to read .* \(OperationalError\)"),
        ('format = 1\nurl = "sqlite:///none.db"\ntable = "t"', "cannot be reached"),
        ('format = 1\nurl = "sqlite://"\ntable = "t"', 'must be "sqlite:///FILE" and nothing more'),
        ('format = 1\nurl = "sqlite:///site.db?mode=rwc"\ntable = "t"', 'must be "sqlite:///FILE" and nothing more'),
        ('format = 1\nurl = "SECRET"\ntable = "t"', "url: is no database's address"),
        ('format = 1\nurl = "SECRET\ntable = "t"', "is not valid TOML; mend it"),
        ('format = 1\nurl = "mysql://u:SECRET@h/d"\ntable = "t"', "is of a database that is not read"),
        ('format = 1\nurl = "postgresql+psycopg2://u:SECRET@/d?host=/run"\ntable = "t"', "database that is not read"),
        ('format = 1\nurl = "postgresql+psycopg://u:SECRET@db.example/d"\ntable = "t"', "the agent has no network"),
        ('format = 1\nurl = "postgresql+psycopg://u:SECRET@/d"\ntable = "t"', "by a Unix socket"),
        ('format = 1\nurl = "postgresql+psycopg://u:SECRET@/d?host=db"\ntable = "t"', "by a Unix socket"),
        ('format = 1\nurl = "postgresql+psycopg://u:SECRET@/d?host=/a,b"\ntable = "t"', "by a Unix socket"),
        ('format = 1\nurl = "postgresql+psycopg://u:SECRET@/d?host=/a&hostaddr=1.2.3.4"\ntable = "t"', "Unix socket"),
        ('format = 1\nurl = "postgresql+psycopg://u@/d?host=/a"\ntable = "t"', "url: has no password"),
    ],
)
def test_a_wrong_description_of_a_database_is_one_sentence_without_its_password(
    tmp_path: Path, text: str, message: str
) -> None:
    write_sqlite(tmp_path, GOOD)
    path = private(tmp_path / "wrong.toml", text + "\n")
    with pytest.raises(ConfigError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_description_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path, GOOD)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others, and may hold a password; run `chmod 600`"):
        read(path)


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path, ())
    with pytest.raises(DataError, match="has no rows"):
        read(path)


def test_the_files_of_a_database_are_known_so_that_the_node_can_lose_sight_of_them(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path, GOOD)
    database = tmp_path.resolve() / "site.db"
    assert files_behind(path)[0] == database
    assert {each.name for each in files_behind(path)} == {"site.db", "site.db-wal", "site.db-shm", "site.db-journal"}
    assert files_behind(write_csv(tmp_path, GOOD)) == []
    assert files_behind(tmp_path / "none.toml") == []
    private(path, 'format = 1\nurl = "postgresql+psycopg://u:p@/d?host=/a"\ntable = "t"\n')
    assert files_behind(path) == []


def test_reading_writes_nothing_beside_a_database(tmp_path: Path) -> None:
    path = write_sqlite(tmp_path, GOOD)
    before = (tmp_path / "site.db").read_bytes()
    read(path)
    assert (tmp_path / "site.db").read_bytes() == before
    assert {each.name for each in tmp_path.iterdir()} == {"site.db", "site.toml"}


@pytest.mark.parametrize(
    ("package", "name", "advice"),
    [
        ("pyarrow", "site.parquet", r"needs pyarrow; run `pip install \"synthfed\[parquet\]\"`"),
        ("sqlalchemy", "site.toml", r"needs SQLAlchemy; run `pip install \"synthfed\[sql\]\"`"),
        ("psycopg", "site.toml", r"needs psycopg; run `pip install \"synthfed\[sql\]\"`"),
    ],
)
def test_what_must_be_installed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str, advice: str
) -> None:
    url = "postgresql+psycopg://u:p@/d?host=/a"
    path = private(tmp_path / name, f'format = 1\nurl = "{url}"\ntable = "t"\n')
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=advice):
        read(path)


def test_the_examples_are_right() -> None:
    assert doctest.testmod(parts).failed == 0


@SOURCES
@pytest.mark.parametrize("accepted", [{"yes", "broad"}, {"7"}])
def test_from_every_source_only_rows_with_an_accepted_value_are_read_further(
    tmp_path: Path, write: Write, accepted: set[str]
) -> None:
    """Also where the column that says so is one of the schema; of the others not even a fault is counted."""
    column = "note" if "yes" in accepted else "ward"
    rows = (
        ("p1", "a", 3, 10.5, "yes"),
        ("p2", "SECRET", 999, None, "no"),
        ("p3", "7", 91, 1.0, "broad"),
        ("p4", "7", 5, 2.0, "no"),
    )
    path, keep = write(tmp_path, rows, NAMES), Keep(column, frozenset(accepted))
    table = TableDomain().read_kept(path, COLUMNS, unit="person", records_per_unit=1, keep=keep, drop_invalid=True)
    expected = [[0.0, 3.0, 10.5]] if column == "note" else [[1.0, 5.0, 2.0]]
    assert (table.records.tolist(), table.units.tolist()) == (expected, [0])
    assert (table.left_out, table.dropped) == (2, 1)


@SOURCES
def test_a_number_can_say_which_rows_are_kept(tmp_path: Path, write: Write) -> None:
    table = TableDomain().read_kept(
        write(tmp_path, GOOD, NAMES), COLUMNS, unit="person", records_per_unit=1, keep=Keep("visits", frozenset({"3"}))
    )
    assert (table.records.tolist(), table.left_out) == ([[0.0, 3.0, 10.5]], 2)
