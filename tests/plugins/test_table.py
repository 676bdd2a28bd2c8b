"""Reading, drafting, encoding and writing tables."""

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from synthfed.plugins.domains.draft import draft_columns
from synthfed.plugins.domains.encoding import OneHotEncoder, written
from synthfed.plugins.domains.lines import BATCH, csv_bytes
from synthfed.plugins.domains.table import TableDomain, read_table
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import Categorical, Integer, Real, Scalar

COLUMNS: tuple[Scalar, ...] = (
    Categorical(name="plan", values=("a", "b, with comma", 'c "quoted"')),
    Integer(name="visits", lower=-3, upper=90, scale="log", missing=True),
    Integer(name="year", lower=1, upper=5),
    Real(name="cost", lower=0.0, upper=40_000.0, scale="log", decimals=2),
    Real(name="age", lower=0.5, upper=99.0, decimals=1, missing=True),
)
HEADER = "person,plan,visits,year,cost,age,free text\n"
GOOD = ("p1,a,3,1,10.5,40.0,x", 'p1,"b, with comma",,2,0,,y', "p2,a,90,5,40000,0.5,")


def write(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def problem_of(path: Path, columns: tuple[Scalar, ...] = COLUMNS, *, limit: int = 5) -> str:
    with pytest.raises(DataError) as caught:
        read_table(path, columns, unit="person", records_per_unit=limit)
    assert str(path) in str(caught.value)
    return str(caught.value)


def random_records(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    encoder = OneHotEncoder(COLUMNS)
    codes = np.stack([rng.integers(0, block.width, rows) for block in encoder.blocks], axis=1)
    return encoder.decode(codes, rng)


def test_reads_the_schema_columns_and_numbers_units_in_order_of_appearance(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "site.csv", *GOOD), COLUMNS, unit="person", records_per_unit=2)
    expected = [[0, 3, 1, 10.5, 40], [1, np.nan, 2, 0, np.nan], [0, 90, 5, 40_000, 0.5]]
    np.testing.assert_array_equal(table.records, np.array(expected))
    assert table.units.tolist() == [0, 0, 1]


def test_blanks_around_a_units_name_make_no_other_unit_of_it(tmp_path: Path) -> None:
    rows = ("p1,a,3,1,10.5,40.0,x", " p1,a,3,1,10.5,40.0,x", "p1\t ,a,3,1,10.5,40.0,x", "p2,a,3,1,10.5,40.0,x")
    path = write(tmp_path / "site.csv", *rows)
    assert read_table(path, COLUMNS, unit="person", records_per_unit=3).units.tolist() == [0, 0, 0, 1]
    assert "1 unit(s) with more than 2 rows" in problem_of(path, limit=2)
    blank = write(tmp_path / "blank.csv", *(f" {row}" for row in (",a,3,1,10.5,40.0,x", "p2,a,3,1,10.5,40.0,x")))
    assert "unit column 'person' has 1 row(s) with an empty cell" in problem_of(blank, limit=1)


def test_without_a_unit_column_every_record_is_a_unit(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "site.csv", *GOOD), COLUMNS, unit=None, records_per_unit=1)
    assert table.units.tolist() == [0, 1, 2]


def test_reads_gzip_a_byte_order_mark_and_skips_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "site.csv.gz"
    path.write_bytes(gzip.compress(("\ufeff" + HEADER + "\n".join(GOOD) + "\n\n").encode()))
    assert len(read_table(path, COLUMNS, unit="person", records_per_unit=2).records) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("p3,SECRET,3,1,10.5,40.0,x", "column 'plan' has 1 row(s) with a value that is not among its categories"),
        ("p3,a,SECRET,1,10.5,40.0,x", "column 'visits' has 1 row(s) with a cell that is not a number"),
        ("p3,a,nan,1,10.5,40.0,x", "column 'visits' has 1 row(s) with a cell that is not a number"),
        ("p3,a,3,1,inf,40.0,x", "column 'cost' has 1 row(s) with a cell that is not a number"),
        ("p3,a,3,1.5,10.5,40.0,x", "column 'year' has 1 row(s) with a number that is not whole"),
        ("p3,a,3,6,10.5,40.0,x", "column 'year' has 1 row(s) with a value out of bounds"),
        ("p3,a,3,1,-0.1,40.0,x", "column 'cost' has 1 row(s) with a value out of bounds"),
        ("p3,a,3,,10.5,40.0,x", "column 'year' has 1 row(s) with an empty cell"),
        ("p3,,3,1,10.5,40.0,x", "column 'plan' has 1 row(s) with an empty cell"),
        (",a,3,1,10.5,40.0,x", "unit column 'person' has 1 row(s) with an empty cell"),
        ("p3,a,3,1,10.5,40.0", "1 row(s) have more or fewer cells than the header's 7"),
        ("p3,a,3,6,10.5,100.0,x", ": 2 problems:\n  column 'year' has 1 row(s)"),
        ("p3,a,3,1,10.5,0.1,x", "column 'age' has 1 row(s) with a value out of bounds (below them)"),
        ("p3,a,3,1,10.5,99.5,x", "column 'age' has 1 row(s) with a value out of bounds (above them)"),
    ],
)
def test_a_bad_row_is_counted_by_column_and_its_value_never_shown(tmp_path: Path, line: str, message: str) -> None:
    problem = problem_of(write(tmp_path / "site.csv", *GOOD, line))
    assert message in problem
    assert "SECRET" not in problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (HEADER.encode(), "has no rows"),
        (HEADER.replace("year", "Year").encode() + b"x\n", "lacks column 'year'"),
        (HEADER.replace("free text", "year").encode() + b"x\n", "names column 'year' twice"),
        (HEADER.encode() + "é".encode("latin-1"), "is not UTF-8"),
        (HEADER.encode() + b'p1,"a" b,1,1,1,1,1\n', "is not valid CSV"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "site.csv"
    path.write_bytes(content)
    assert message in problem_of(path)


def test_units_over_the_contribution_bound_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "site.csv", *GOOD)
    assert "has 1 unit(s) with more than 1 rows" in problem_of(path, limit=1)


def test_a_site_smaller_than_its_contribution_bound_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "site.csv", *GOOD)
    assert "smaller than its contribution bound (3 rows" in problem_of(path, limit=4)


def test_a_file_that_cannot_be_read_is_the_operators_to_mend(tmp_path: Path) -> None:
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(gzip.compress(HEADER.encode())[:-6])
    plain = tmp_path / "plain.csv.gz"
    plain.write_bytes(b"not gzip at all")
    for path, message in [
        (tmp_path / "none.csv", "does not exist"),
        (tmp_path, "is not a regular file"),
        (broken, "is not a complete gzip file"),
        (plain, "is not a complete gzip file"),
    ]:
        with pytest.raises(ConfigError, match=message):
            read_table(path, COLUMNS, unit=None, records_per_unit=1)


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    records, path = random_records(3000), tmp_path / "out.csv"
    TableDomain().write(path, COLUMNS, [records[:1000], records[1000:]])
    table = TableDomain().read(path, COLUMNS, unit=None, records_per_unit=1)
    np.testing.assert_array_equal(table.records, records)
    assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]


def test_values_are_written_as_the_schema_types_them(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    TableDomain().write(path, COLUMNS, [np.array([[2, np.nan, 5, 0.125, -0.0], [0, 3, 1, 7, np.nan]])])
    assert path.read_text(encoding="utf-8").splitlines() == [
        "plan,visits,year,cost,age",
        '"c ""quoted""",,5,0.12,0.5',
        "a,3,1,7.00,",
    ]


def slow_lines(columns: Sequence[Scalar], records: np.ndarray) -> bytes:
    """Return the bytes of a CSV file, cell by cell through the standard library."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    for row in records:
        writer.writerow([slow_cell(column, value) for column, value in zip(columns, row.tolist(), strict=True)])
    return text.getvalue().encode()


def slow_cell(column: Scalar, value: float) -> str:
    if np.isnan(value):
        return ""
    if isinstance(column, Categorical):
        return column.values[int(value)]
    written_value = float(written(column, np.array([value]))[0])
    return f"{written_value:.{column.decimals}f}" if isinstance(column, Real) else f"{int(written_value)}"


NUMBERS: tuple[Scalar, ...] = (
    Integer(name="signed", lower=-1000, upper=12),
    Integer(name="huge", lower=-(2**53), upper=2**53),
    Real(name="whole", lower=-10, upper=10, decimals=0),
    Real(name="fine", lower=-1, upper=1, decimals=12),
    Real(name="huge and fine", lower=0, upper=2.0**53, decimals=12),
    Real(name="narrow", lower=0.52, upper=0.54, decimals=1),
    Real(name="wide", lower=-1e6, upper=1e9, decimals=2, scale="log", missing=True),
)


@given(
    hnp.arrays(np.float64, (5, len(NUMBERS)), elements=st.floats(-1e16, 1e16) | st.floats(-2, 2) | st.just(np.nan)),
)
def test_numbers_are_written_as_python_writes_them_one_by_one(records: np.ndarray) -> None:
    assert b"".join(csv_bytes(NUMBERS, [records])) == slow_lines(NUMBERS, records)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1), unique=True))
def test_texts_are_written_as_the_standard_library_writes_them(values: list[str]) -> None:
    columns = [Categorical(name="t", values=("x", *(f"x{value}" for value in values))), COLUMNS[2]]
    records = np.array([[i, 1 + i % 5] for i in range(len(values) + 1)], dtype=np.float64)
    assert b"".join(csv_bytes(columns, [records])) == slow_lines(columns, records)


def test_the_lines_of_a_file_do_not_depend_on_how_its_rows_are_cut_into_chunks() -> None:
    records = random_records(BATCH + 100)
    whole = b"".join(csv_bytes(COLUMNS, [records]))
    assert whole == slow_lines(COLUMNS, records)
    assert b"".join(csv_bytes(COLUMNS, np.split(records, [1, 1, 3000]))) == whole
    assert b"".join(csv_bytes(COLUMNS, [])) == slow_lines(COLUMNS, records[:0])


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        TableDomain().write(tmp_path / "none" / "out.csv", COLUMNS, [random_records(3)])
    with pytest.raises(ConfigError, match="cannot be written"):
        TableDomain().write(tmp_path, COLUMNS, [random_records(3)])
    assert list(tmp_path.iterdir()) == []


def test_a_drafted_schema_reads_the_file_it_was_drafted_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole = [101, 1988, *rng.integers(101, 1988, 198)]
    tail = rng.exponential(size=200) ** 4
    signed = ["" if i == 7 else str(i - 31) for i in range(200)]
    lines = [f"u{i},{'ab'[i % 2]},{i % 4},{whole[i]},{tail[i]:.3f},{signed[i]}" for i in range(200)]
    path = write(tmp_path / "public.csv", *lines, header="id,letter,few,whole,tail,signed\n")
    columns = TableDomain().draft(path, exclude=["id"])
    assert columns[0] == Categorical(name="letter", values=("a", "b"))
    assert columns[1] == Categorical(name="few", values=("0", "1", "2", "3"))
    assert columns[2] == Integer(name="whole", lower=100, upper=2000)
    assert isinstance(columns[3], Real)
    assert (columns[3].lower, columns[3].scale, columns[3].decimals) == (0.0, "log", 3)
    assert columns[4] == Integer(name="signed", lower=-31, upper=170, missing=True)
    assert len(read_table(path, columns, unit="id", records_per_unit=1).records) == 200


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([f"text {i}" for i in range(100)], "drop it with `--drop c`"),
        ([f"text {i % 5000}" for i in range(20_000)], "too many different texts"),
        (["", ""], "is empty; drop it with `--drop c`"),
    ],
)
def test_a_column_that_cannot_be_learnt_is_named_with_its_remedy(cells: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draft_columns(Path("public.csv"), {"c": cells}, exclude=())


def test_only_columns_that_exist_can_be_dropped_and_one_must_stay() -> None:
    with pytest.raises(ConfigError, match="no column 'd'"):
        draft_columns(Path("public.csv"), {"c": ["1"]}, exclude=["d"])
    with pytest.raises(ConfigError, match="no columns left"):
        draft_columns(Path("public.csv"), {"c": ["1"]}, exclude=["c"])


def test_every_cell_decodes_into_itself_where_values_are_whole() -> None:
    columns: tuple[Scalar, ...] = (
        Integer(name="few", lower=-2, upper=9),
        Integer(name="many", lower=-50, upper=10_000),
        Integer(name="tail", lower=-3, upper=1000, scale="log", missing=True),
        Categorical(name="text", values=("x", "y"), missing=True),
    )
    encoder, rng = OneHotEncoder(columns), np.random.default_rng(0)
    codes = np.stack([rng.integers(0, block.width, 5000) for block in encoder.blocks], axis=1)
    np.testing.assert_array_equal(encoder.codes(encoder.decode(codes, rng)), codes)


def test_the_lower_bound_of_a_log_column_is_a_cell_of_its_own() -> None:
    encoder = OneHotEncoder(
        (Integer(name="n", lower=0, upper=500, scale="log"), Real(name="x", lower=1, upper=9, scale="log"))
    )
    codes = encoder.codes(np.array([[0, 1.0], [1, 1.01], [500, 9.0]]))
    assert codes[0].tolist() == [0, 0]
    assert codes[1].tolist() == [1, 1]
    assert codes[2].tolist() == [encoder.blocks[0].width - 1, encoder.blocks[1].width - 1]
    drawn = encoder.decode(np.zeros((50, 2), dtype=np.int64), np.random.default_rng(0))
    assert np.unique(drawn, axis=0).tolist() == [[0.0, 1.0]]


def test_decoded_values_can_be_written_within_bounds_that_the_decimals_cannot_write() -> None:
    column = Real(name="x", lower=0.123, upper=0.987, decimals=1)
    encoder = OneHotEncoder((column,))
    values = encoder.decode(np.tile(np.arange(24), 50)[:, None], np.random.default_rng(0))
    assert values.min() == 0.2
    assert values.max() == 0.9


@given(hnp.arrays(np.float64, (4, 5), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_encoding_is_total_and_gives_one_cell_per_column(records: np.ndarray) -> None:
    encoder = OneHotEncoder(COLUMNS)
    for first, end in zip(encoder.offsets[:-1], encoder.offsets[1:], strict=True):
        assert encoder.encode(records)[:, first:end].sum(axis=1).tolist() == [1.0] * 4


@given(st.permutations(range(6)), st.integers(0, 100))
def test_encoding_a_row_depends_on_that_row_alone(order: list[int], seed: int) -> None:
    encoder, records = OneHotEncoder(COLUMNS), random_records(6, seed)
    np.testing.assert_array_equal(encoder.encode(records[order]), encoder.encode(records)[order])
    np.testing.assert_array_equal(encoder.encode(records[2:3]), encoder.encode(records)[2:3])


@pytest.mark.parametrize(
    ("bounds", "decimals", "cells"),
    [((0.0, 1.0), 2, 101), ((295.3, 304.5), 1, 93), ((-1.26, 1.26), 1, 25), ((0.0, 1.0), 4, 129), ((0.0, 0.9), 0, 129)],
)
def test_reals_of_few_decimals_have_a_cell_for_each_value_that_can_be_written(
    bounds: tuple[float, float], decimals: int, cells: int
) -> None:
    column = Real(name="x", lower=bounds[0], upper=bounds[1], decimals=decimals)
    encoder, rng = OneHotEncoder((column,), 64, 256, 128), np.random.default_rng(0)
    assert encoder.width == cells
    if cells != 129:  # 128 even ones and the lower bound's
        codes = np.repeat(np.arange(cells), 50)[:, None]
        records = encoder.decode(codes, rng)
        assert len(np.unique(records)) == cells
        np.testing.assert_array_equal(encoder.codes(records), codes)


def test_values_at_the_lower_bound_come_back_as_they_are() -> None:
    # A code for "never", 0 or a censored value: a whole bin of a coarse grid would smear it.
    columns = (Integer(name="days", lower=-1, upper=1000), Real(name="dose", lower=0, upper=500, decimals=2))
    encoder = OneHotEncoder(columns, 16)
    records = np.array([[-1.0, 0.0]]).repeat(50, axis=0)
    np.testing.assert_array_equal(encoder.decode(encoder.codes(records), np.random.default_rng(0)), records)
    assert (encoder.codes(np.array([[0.0, 0.01]])) == 1).all()
