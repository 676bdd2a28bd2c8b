"""Series in CSV files of long form: the same records as from arrays, and every way in which a file can be wrong."""

import csv
import doctest
from pathlib import Path

import numpy as np
import pytest

from synthfed.plugins.domains import long_form
from synthfed.plugins.domains.signal import SignalDomain
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import ArrayColumn, Categorical, Column

SERIES = ArrayColumn(name="beat", shape=(2, 4), lower=-2, upper=2, decimals=1)
KIND = Categorical(name="kind", values=("normal", "other"))
COLUMNS: tuple[Column, ...] = (KIND, SERIES)
HEADER = ["patient", "kind", "step", "beat.2", "record", "beat.1"]
KINDS = ["normal", "other", "normal", "normal", "other", "other"]
BEATS = np.round(np.sin(np.arange(48.0)).reshape(6, 2, 4), 1)


def rows() -> list[list[object]]:
    """Return the file's rows, of which later steps of a record may come first."""
    made: list[list[object]] = [
        [f"p{i // 2}", KINDS[i], step, BEATS[i, 1, step], f"r{i}", BEATS[i, 0, step]]
        for step in (2, 0, 3, 1)
        for i in range(6)
    ]
    return made


def save(path: Path, lines: list[list[object]], header: list[str] = HEADER) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def changed(row: int, column: str, cell: object) -> list[list[object]]:
    made = rows()
    made[row][HEADER.index(column)] = cell
    return made


def test_the_example_is_right() -> None:
    assert doctest.testmod(long_form).failed == 0


@pytest.mark.parametrize("unit", [None, "patient"])
def test_a_long_table_reads_as_the_arrays_that_it_holds(tmp_path: Path, unit: str | None) -> None:
    names = np.array([f"p{i // 2}" for i in range(6)])
    np.savez(tmp_path / "a.npz", beat=BEATS, kind=np.array(KINDS), patient=names)
    arrays = SignalDomain().read(tmp_path / "a.npz", COLUMNS, unit=unit, records_per_unit=2)
    long = SignalDomain().read(save(tmp_path / "a.csv", rows()), COLUMNS, unit=unit, records_per_unit=2)
    np.testing.assert_array_equal(long.records, arrays.records)
    np.testing.assert_array_equal(long.units, arrays.units)
    assert long.names == set(HEADER)
    assert arrays.names == {"beat", "kind", "patient"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (rows()[:-1], r"1 record\(s\) lack a step or have one twice; give each record 4 rows"),
        (changed(0, "step", 3), r"1 record\(s\) lack a step or have one twice"),
        ([*rows(), rows()[0]], r"1 record\(s\) lack a step or have one twice"),
        (changed(0, "step", 4), r"column 'step' has 1 row\(s\) without a whole number from 0 to 3"),
        (changed(0, "step", "1.5"), r"column 'step' has 1 row\(s\) without a whole number"),
        (changed(0, "step", ""), r"column 'step' has 1 row\(s\) without a whole number"),
        (changed(0, "record", ""), r"column 'record' has 1 row\(s\) with an empty cell"),
        (changed(0, "kind", "other"), r"column 'kind' changes within 1 record\(s\)"),
        (changed(0, "patient", "p9"), r"column 'patient' changes within 1 record\(s\)"),
        (changed(0, "beat.1", "high"), r"array 'beat' has 1 row\(s\) with a number that is not finite"),
        (changed(0, "beat.2", ""), r"array 'beat' has 1 row\(s\) with a number that is not finite"),
        (changed(0, "beat.2", 2.5), r"array 'beat' has 1 row\(s\) with a number out of bounds"),
    ],
)
def test_what_does_not_fit_is_counted_and_not_shown(tmp_path: Path, lines: list[list[object]], words: str) -> None:
    with pytest.raises(DataError, match=words) as refused:
        SignalDomain().read(save(tmp_path / "a.csv", lines), COLUMNS, unit="patient", records_per_unit=2)
    assert not any(value in str(refused.value) for value in ("p9", "high", "2.5", "r0"))


def test_a_missing_lead_is_named(tmp_path: Path) -> None:
    wider = (KIND, SERIES.model_copy(update={"shape": (3, 4)}))
    with pytest.raises(DataError, match=r"lacks column 'beat\.3'"):
        SignalDomain().read(save(tmp_path / "a.csv", rows()), wider, unit=None, records_per_unit=1)


def test_a_drafted_schema_reads_the_file_it_was_drafted_from(tmp_path: Path) -> None:
    path = save(tmp_path / "a.csv", rows())
    drafted = SignalDomain().draft(path, exclude=["patient"])
    assert drafted == (SERIES.model_copy(update={"lower": -1.0, "upper": 1.0, "decimals": 4}), KIND)
    assert len(SignalDomain().read(path, drafted, unit="patient", records_per_unit=2).records) == 6
    one = save(tmp_path / "one.csv", rows(), [*HEADER[:-1], "beat"])
    drafted = SignalDomain().draft(one, exclude=["patient", "beat.2"])
    assert drafted[0].name == "beat"
    np.testing.assert_array_equal(
        SignalDomain().read(one, drafted, unit=None, records_per_unit=1).records[:, :4], BEATS[:, 0]
    )


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (["patient", "kind", "time", "beat.2", "record", "beat.1"], "lacks column 'record' or 'step'"),
        (["patient", "kind", "step", "beat.3", "record", "beat.1"], "has not the leads of one series; name the leads"),
        (["patient", "kind", "step", "other.2", "record", "beat.1"], "has not the leads of one series"),
        (["patient", "kind", "step", "more", "record", "beat"], "has not the leads of one series"),
    ],
)
def test_leads_that_cannot_be_told_are_not_guessed(tmp_path: Path, header: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SignalDomain().draft(save(tmp_path / "a.csv", rows(), header))


def test_records_that_do_not_fit_are_left_out_and_unlike_steps_stay_an_error(tmp_path: Path) -> None:
    path = save(tmp_path / "a.csv", changed(0, "beat.2", 2.5))
    table = SignalDomain().read(path, COLUMNS, unit=None, records_per_unit=1, drop_invalid=True)
    assert (len(table.records), table.dropped) == (5, 1)
    path = save(tmp_path / "b.csv", rows()[:-1])
    with pytest.raises(DataError, match="lack a step or have one twice"):
        SignalDomain().read(path, COLUMNS, unit=None, records_per_unit=1, drop_invalid=True)
