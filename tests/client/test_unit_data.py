"""A site's records by privacy unit: grouping, one record per sampled unit, and errors without values."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthfed.client.data import AT_ONCE, UnitData, check_links, encode, load_units
from synthfed.plugins.api import PrivatePart
from synthfed.plugins.domains.table import TableDomain
from synthfed.protocols.errors import ConfigError, DataError, UnsupportedMechanism
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.study import Study

ALARM_SD = 5.5  # two-sided false-alarm rate of one comparison: 4e-8


def key(seed: int) -> bytes:
    return seed.to_bytes(32, "little")


def grouped(units: int, records: int) -> UnitData:
    """Units of equally many records; a record's vector is its unit and its place in the unit."""
    rows = np.array([(unit, place) for unit in range(units) for place in range(records)], dtype=np.float64)
    return UnitData(rows, np.arange(units, dtype=np.int64) * records, np.full(units, records, dtype=np.int64))


@pytest.fixture
def by_person(study: Study) -> Study:
    return changed(study, unit="person", records_per_unit=3, units_per_site=4)


def changed(study: Study, **privacy: Any) -> Study:
    fields = study.model_dump(mode="json")
    fields["privacy"] |= privacy
    return Study.model_validate(fields)


def write(folder: Path, text: str) -> Path:
    path = folder / "data.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_records_of_one_unit_lie_next_to_each_other_whatever_the_order_of_the_file(
    tmp_path: Path, by_person: Study, tiny: PrivatePart
) -> None:
    path = write(tmp_path, "person,x\np,0.1\nq,0.2\np,0.3\nr,0.4\nq,0.5\np,0.6\n")
    data = load_units(path, by_person, TableDomain(), tiny, "a")
    parts = [
        sorted(data.encoded[start : start + count, 0].tolist())
        for start, count in zip(data.starts, data.counts, strict=True)
    ]
    assert sorted(parts) == [[0.1, 0.3, 0.6], [0.2, 0.5], [0.4]]
    assert data.counts.sum() == len(data.encoded) == 6


def test_without_a_unit_column_every_record_is_a_unit(tmp_path: Path, study: Study, tiny: PrivatePart) -> None:
    data = load_units(write(tmp_path, "x\n0.5\n0.5\n0.25\n"), study, TableDomain(), tiny, "a")
    assert data.counts.tolist() == [1, 1, 1]
    assert data.encoded[data.starts, 0].tolist() == [0.5, 0.5, 0.25]


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_every_sampled_unit_contributes_exactly_one_record_of_its_own(rate: float) -> None:
    data = grouped(units=500, records=7)
    for seed in range(20):
        batch = data.draw(KeyStream(key(seed)), rate, 512)
        units = batch[:, 0].astype(int)
        assert len(set(units.tolist())) == len(units)
        assert (batch[:, 1] < 7).all()
        if rate == 1.0:
            assert units.tolist() == list(range(500))


def test_each_record_of_a_unit_stands_for_it_equally_often() -> None:
    """20,000 units of 5 records at rate 1: a record's place is Bin(20000, 1/5); false alarm 2e-7 over 5 places."""
    units, records = 20_000, 5
    batch = grouped(units, records).draw(KeyStream(key(1)), 1.0, units)
    counts = np.bincount(batch[:, 1].astype(int), minlength=records)
    sd = np.sqrt(units * 0.2 * 0.8)
    assert (np.abs(counts - units / records) < ALARM_SD * sd).all()


def test_a_unit_is_sampled_at_the_declared_rate_however_many_records_it_has() -> None:
    """Three units of 1, 2 and 50 records over 4,000 rounds: each is Bin(4000, 0.3); false alarm 2e-7."""
    counts = np.array([1, 2, 50], dtype=np.int64)
    encoded = np.repeat(np.arange(3.0), counts)[:, None]
    data = UnitData(encoded, np.array([0, 1, 3], dtype=np.int64), counts)
    rounds, hits = 4000, np.zeros(3)
    for seed in range(rounds):
        hits[data.draw(KeyStream(key(seed)), 0.3, 64)[:, 0].astype(int)] += 1
    assert (np.abs(hits - 0.3 * rounds) < ALARM_SD * np.sqrt(rounds * 0.3 * 0.7)).all()


def test_a_batch_beyond_its_slots_is_cut_to_an_equally_likely_choice() -> None:
    """10 units into 4 slots over 3,000 rounds: each unit is in with chance 0.4; false alarm 4e-7 over 10 units."""
    data, rounds, hits = grouped(units=10, records=2), 3000, np.zeros(10)
    for seed in range(rounds):
        batch = data.draw(KeyStream(key(seed)), 1.0, 4)
        assert batch.shape == (4, 2)
        hits[batch[:, 0].astype(int)] += 1
    assert (np.abs(hits - 0.4 * rounds) < ALARM_SD * np.sqrt(rounds * 0.4 * 0.6)).all()


def test_the_same_seed_draws_the_same_records_and_another_seed_does_not() -> None:
    data = grouped(units=200, records=3)
    first, again, other = (data.draw(KeyStream(key(seed)), 0.5, 200) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_round_in_which_nobody_is_sampled_gives_no_rows() -> None:
    assert grouped(units=3, records=2).draw(KeyStream(key(0)), 1e-12, 64).shape == (0, 2)


def test_more_units_than_the_study_declares_are_refused(tmp_path: Path, by_person: Study, tiny: PrivatePart) -> None:
    four = "person,x\n" + "".join(f"p{i},0.5\n" for i in range(4))
    assert len(load_units(write(tmp_path, four), by_person, TableDomain(), tiny, "a").starts) == 4
    with pytest.raises(DataError, match=r"declares at most privacy\.units_per_site = 4; agree on"):
        load_units(write(tmp_path, four + "p4,0.5\n"), by_person, TableDomain(), tiny, "a")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("person,x\np,SECRET-4711\nq,0.2\nr,0.2\n", "'x'"),
        ("person,x\np,4711.25\nq,0.2\nr,0.2\n", "'x'"),
        ("person,x\nSECRET-4711,0.1\nSECRET-4711,0.2\nSECRET-4711,0.3\nSECRET-4711,0.4\n", "'person'"),
        ("person,x\n,0.4711\nq,0.2\nr,0.2\n", "'person'"),
        ("person,x\np,\nSECRET-4711,0.2\nr,0.2\n", "'x'"),
        ("person,x\nSECRET-4711,0.1,4711\nq,0.2\nr,0.3\n", "1 row(s)"),
        ("person,x\nSECRET-4711,0.1\n", "records_per_unit"),
        ("person,y\nSECRET-4711,0.1\n", "'x'"),
        ('person,x\n"SECRET-4711,0.1\n', "not valid CSV"),
        ("".join(f"SECRET-4711-{i},0.1\n" for i in range(9)), "column"),
        ("person,x\n" + "".join(f"SECRET-4711-{i},0.1\n" for i in range(9)), "units_per_site"),
    ],
)
def test_an_error_about_the_data_names_columns_and_counts_and_never_a_value(
    tmp_path: Path, by_person: Study, tiny: PrivatePart, text: str, names: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_units(write(tmp_path, text), by_person, TableDomain(), tiny, "a")
    assert names in str(caught.value)
    assert "4711" not in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_missing_table_is_an_error_of_the_settings(tmp_path: Path, study: Study, tiny: PrivatePart) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv: does not exist"):
        load_units(tmp_path / "none.csv", study, TableDomain(), tiny, "a")


def test_links_that_lead_out_of_a_data_folder_are_refused_and_not_named(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "records", tmp_path / "elsewhere"
    (folder / "inner").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "scan.png").touch()
    (folder / "inner" / "smith.png").symlink_to("../../elsewhere/scan.png")
    (folder / "more").symlink_to(elsewhere)
    (folder / "gone.png").symlink_to("/nowhere/gone.png")
    with pytest.raises(ConfigError, match=r"records: 3 symbolic link\(s\) in this folder lead outside") as refused:
        check_links(folder)
    assert "smith" not in str(refused.value)


def test_links_within_a_data_folder_a_folder_that_is_a_link_and_a_file_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    (folder / "inner").mkdir(parents=True)
    (folder / "scan.png").touch()
    (folder / "inner" / "again.png").symlink_to("../scan.png")
    (folder / "inner" / "up").symlink_to(folder)
    (tmp_path / "linked").symlink_to(folder)
    for path in (folder, tmp_path / "linked", folder / "scan.png", tmp_path / "nothing"):
        check_links(path)


@pytest.mark.parametrize("other", [None, 0.5, -1.0, 256.0, -0.0, np.nan, np.inf])
def test_numbers_of_bytes_are_kept_as_bytes_and_any_others_bit_for_bit(other: float | None, tiny: PrivatePart) -> None:
    records = np.random.default_rng(0).integers(256, size=(AT_ONCE + 3, 2)).astype(np.float64)
    if other is not None:
        records[-1, 1] = other
    kept = encode(tiny, records)
    assert kept.dtype == (np.uint8 if other is None else np.float64)
    assert kept.astype(np.float64).tobytes() == records.tobytes()


@pytest.mark.parametrize("rows", [slice(0, 1), slice(1, None)], ids=["one", "one less"])
def test_an_encoding_without_a_vector_for_each_record_is_refused(
    rows: slice, tiny: PrivatePart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "encode", lambda records: records[rows])
    with pytest.raises(UnsupportedMechanism, match="one vector for each record"):
        encode(tiny, np.ones((5, 2)))


def test_rows_that_do_not_fit_are_left_out_where_the_site_says_so_and_its_own_log_tells(
    tmp_path: Path, by_person: Study, tiny: PrivatePart, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, "person,x\np,0.1\nq,SECRET\np,0.3\nr,7\np,0.6\n")
    with pytest.raises(DataError, match=r"2 problems:\n"):
        load_units(path, by_person, TableDomain(), tiny, "a")
    caplog.set_level(logging.INFO)
    data = load_units(path, by_person, TableDomain(), tiny, "a", drop_invalid=True)
    assert (data.starts.tolist(), data.counts.tolist()) == ([0], [3])
    assert "2 of 5 row(s) left out:\n  column 'x' has 1 row(s) with a cell that is not a number" in caplog.text
    assert "SECRET" not in caplog.text


def test_whether_a_row_is_left_out_depends_on_no_other_row(tmp_path: Path, by_person: Study, tiny: PrivatePart) -> None:
    """One more unit with rows of any kind changes no other unit's rows, which is what sensitivity counts on."""
    rows = ["p,0.1", "q,SECRET", "p,0.3", "r,7", ",0.5", "p,0.6"]
    kept = []
    for more in ([], ["s,0.9"], ["s,9"], ["s,"], ["s,0.2,1"]):
        path = write(tmp_path, "\n".join(["person,x", *rows, *more]) + "\n")
        data = load_units(path, by_person, TableDomain(), tiny, "a", drop_invalid=True)
        kept.append(data.encoded[:3, 0].tolist())
    assert kept == [[0.1, 0.3, 0.6]] * 5
