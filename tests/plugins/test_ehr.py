"""Health records: codes in public groups, measurements within public bounds, missing as a value of its own."""

from pathlib import Path

import numpy as np
import pytest

from synthfed.plugins.domains.codes import groups_of
from synthfed.plugins.domains.ehr import EhrDomain
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Integer, Real

CODES = Categorical(name="diagnosis", values=("250.01", "250*", "V*", "240-279*", "001-139*", "*"), missing=True)
HOSPITAL = Categorical(name="hospital", values=("north", "south"))
CHOLESTEROL = Integer(name="chol", lower=32, upper=660, missing=True)
WEIGHT = Real(name="weight", lower=1, upper=250, decimals=1)
COLUMNS: tuple[Column, ...] = (HOSPITAL, CODES, CHOLESTEROL, WEIGHT)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["hospital,diagnosis,chol,weight", *lines]) + "\n")
    return path


def read(path: Path, columns: tuple[Column, ...] = COLUMNS) -> np.ndarray:
    return EhrDomain().read(path, columns, unit=None, records_per_unit=1).records


@pytest.mark.parametrize(
    ("code", "group"),
    [
        ("250.01", "250.01"),
        ("250.43", "250*"),
        ("250", "250*"),
        ("272", "240-279*"),
        ("V57", "V*"),
        ("8", "001-139*"),  # 008 in a table that dropped its zeros
        ("41.1", "001-139*"),
        ("25", "001-139*"),
        ("428", "*"),
        ("E849", "*"),
        ("", ""),
    ],
)
def test_a_code_reads_as_the_narrowest_category_that_takes_it(code: str, group: str) -> None:
    groups = groups_of(CODES)
    assert groups is not None
    assert groups.of(code) == group


def test_a_column_of_plain_categories_has_no_groups() -> None:
    assert groups_of(HOSPITAL) is None


def test_codes_are_read_as_groups_and_missing_stays_a_value_of_its_own(tmp_path: Path) -> None:
    records = read(write(tmp_path / "a.csv", "north,250.43,200,70.5", "south,428,,60", "south,,180,81"))
    np.testing.assert_array_equal(records, [[0, 1, 200, 70.5], [1, 5, np.nan, 60], [1, np.nan, 180, 81]])


def test_a_code_that_no_category_takes_is_counted(tmp_path: Path) -> None:
    columns = (CODES.model_copy(update={"values": ("250*", "V*")}),)
    with pytest.raises(DataError, match=r"column 'diagnosis' has 1 row\(s\) with a value that is not among"):
        read(write(tmp_path / "a.csv", "north,428,200,70"), columns)


def test_a_zero_below_the_lower_bound_reads_as_not_measured_at_all_rows_of_a_site(tmp_path: Path) -> None:
    records = read(write(tmp_path / "a.csv", *["south,428,0,70"] * 5))
    assert np.isnan(records[:, 2]).all()


def test_a_few_implausible_numbers_read_as_missing_and_many_are_refused(tmp_path: Path) -> None:
    lines = ["north,428,200,70"] * 19
    records = read(write(tmp_path / "a.csv", *lines, "north,428,9999,70"))
    assert np.isnan(records[:, 2]).tolist() == [False] * 19 + [True]
    with pytest.raises(DataError, match=r"column 'chol' has 2 row\(s\) with a value out of bounds"):
        read(write(tmp_path / "b.csv", *lines, *["north,428,9999,70"] * 2))


def test_a_number_out_of_bounds_is_refused_where_a_column_may_not_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'weight' has 1 row\(s\) with a value out of bounds"):
        read(write(tmp_path / "a.csv", *["north,428,200,70"] * 50, "north,428,200,0"))


@pytest.mark.parametrize("value", ["279-240*", "1-139*"])
def test_a_range_whose_ends_do_not_fit_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="column 'diagnosis' has the range"):
        EhrDomain().check((CODES.model_copy(update={"values": (value, "*")}),))


def test_arrays_are_refused() -> None:
    with pytest.raises(ConfigError, match="domain 'ehr' is for tables"):
        EhrDomain().check((ArrayColumn(name="scan", shape=(2, 2), lower=0, upper=1),))


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    records = np.array([[0, 1, 200, 70.5], [1, 5, np.nan, 60], [1, np.nan, 180, 81]])
    domain = EhrDomain()
    domain.write(tmp_path / "a.csv", COLUMNS, [records])
    np.testing.assert_array_equal(read(tmp_path / "a.csv"), records)
    assert "250*" in (tmp_path / "a.csv").read_text()
    assert domain.picture(COLUMNS, records, 2) is None


def test_a_draft_takes_groups_and_bounds_from_what_is_public(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = ["250.43"] * 60 + [f"{rng.integers(400, 700)}" for _ in range(140)]
    lines = [
        f"{('north', 'south')[i % 2]},{code},{rng.integers(150, 300)},{60 + i / 10:.1f}" for i, code in enumerate(codes)
    ]
    path = write(tmp_path / "a.csv", *lines)
    drafted = {column.name: column for column in EhrDomain().draft(path, exclude={"hospital"})}
    assert drafted["chol"] == CHOLESTEROL
    assert drafted["weight"] == Real(name="weight", lower=0.2, upper=250, decimals=1, missing=True)
    diagnosis = drafted["diagnosis"]
    assert isinstance(diagnosis, Categorical)
    assert diagnosis.missing
    assert {"250*", "240-279*", "001-139*", "V*", "*"} <= set(diagnosis.values)
    EhrDomain().check(tuple(drafted.values()))
    assert len(read(path, tuple(drafted.values()))) == len(codes)


def test_what_is_neither_code_nor_measurement_is_drafted_as_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ward,visits,chol\n" + "".join(f"w{i % 3},{i},{5 + i / 20}\n" for i in range(40)))
    ward, visits, chol = EhrDomain().draft(tmp_path / "a.csv")
    assert ward == Categorical(name="ward", values=("w0", "w1", "w2"))
    assert visits == Integer(name="visits", lower=0, upper=39)  # numbers alone are no codes
    assert chol == Real(name="chol", lower=0.8, upper=17.1, decimals=2, missing=True)  # in mmol/L


def test_codes_of_the_tenth_revision_are_known_by_their_form(tmp_path: Path) -> None:
    codes = [f"{letter}{i:02d}.{i % 10}" for letter in "EIJ" for i in range(10, 30)]
    (tmp_path / "a.csv").write_text("cause\n" + "\n".join(codes) + "\n")
    (cause,) = EhrDomain().draft(tmp_path / "a.csv")
    assert isinstance(cause, Categorical)
    assert {"I10*", "I00-I99*", "*"} <= set(cause.values)


def test_only_columns_that_exist_can_be_dropped_and_one_must_stay(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "north,428,200,70")
    with pytest.raises(ConfigError, match="has no column 'unknown' to drop"):
        EhrDomain().draft(path, exclude={"unknown"})
    with pytest.raises(ConfigError, match="has no columns left"):
        EhrDomain().draft(path, exclude={"hospital", "diagnosis", "chol", "weight"})
