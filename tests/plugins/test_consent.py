"""Rows that may not be used: left out before anything else of them is looked at, and only by a domain that can."""

import base64
import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthfed.plugins.api import Keep, KeepingDomain
from synthfed.plugins.domains.ehr import EhrDomain
from synthfed.plugins.domains.image import ImageDomain
from synthfed.plugins.domains.signal import SignalDomain
from synthfed.plugins.domains.table import TableDomain
from synthfed.plugins.site_column import read_site
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import Categorical, Integer
from synthfed.protocols.study import Study

COLUMNS = (Integer(name="age", lower=0, upper=120), Categorical(name="ill", values=("no", "yes")))
KEEP = Keep("consent", frozenset({"yes", "broad"}))
HEADER = "person,age,consent,ill\n"


def kept(
    path: Path, unit: str | None = None, most: int = 1, keep: Keep = KEEP
) -> tuple[list[list[float]], list[int], int]:
    table = TableDomain().read_kept(path, COLUMNS, unit=unit, records_per_unit=most, keep=keep)
    return table.records.tolist(), table.units.tolist(), table.left_out


@given(
    st.lists(st.tuples(st.integers(0, 120), st.sampled_from(["yes", " broad\t", "no", "", "YES", "yes!"])), min_size=1)
)
def test_exactly_the_rows_with_an_accepted_value_are_kept_in_their_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]]
) -> None:
    path = tmp_path_factory.mktemp("data") / "data.csv"
    path.write_text(HEADER + "".join(f"p,{age},{consent},no\n" for age, consent in rows))
    expected = [[float(age), 0.0] for age, consent in rows if consent.strip() in ("yes", "broad")]
    if not expected:
        with pytest.raises(DataError, match="column 'consent' has no row with an accepted value"):
            kept(path)
        return
    records, units, left_out = kept(path)
    assert (records, units, left_out) == (expected, list(range(len(expected))), len(rows) - len(expected))


def test_nothing_else_of_a_row_that_is_left_out_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(HEADER + "a,30,yes,no\nb,9999,no,perhaps\nb,,no,\n,5,no,no\na,40,yes,yes\n")
    records, units, left_out = kept(path, "person", 2)
    assert (records, units, left_out) == ([[30.0, 0.0], [40.0, 1.0]], [0, 0], 3)
    with pytest.raises(DataError):
        TableDomain().read(path, COLUMNS, unit="person", records_per_unit=2)


def test_a_unit_keeps_those_of_its_records_that_may_be_used(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(HEADER + "a,30,no,no\nb,50,yes,no\na,31,yes,yes\nc,60,no,no\n")
    assert kept(path, "person") == ([[50.0, 0.0], [31.0, 1.0]], [0, 1], 2)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("person,age,ill", "lacks column 'consent'; add it"),
        ("person,age,consent,consent,ill", "names column 'consent' twice"),
    ],
)
def test_a_file_without_one_such_column_is_refused(tmp_path: Path, header: str, message: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f"{header}\n" + ",".join(["1"] * len(header.split(","))) + "\n")
    with pytest.raises(DataError, match=message):
        kept(path)


def test_the_column_may_be_one_of_the_schema_and_the_file_compressed(tmp_path: Path) -> None:
    path = tmp_path / "data.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "a,30,no,no\na,31,no,yes\n").encode()))
    assert kept(path, keep=Keep("ill", frozenset({"yes"}))) == ([[31.0, 1.0]], [0], 1)


def test_the_share_of_implausible_numbers_is_that_of_the_rows_that_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(HEADER + "a,30,yes,no\n" * 20 + "b,999,no,no\n" * 20)
    columns = (Integer(name="age", lower=0, upper=120, missing=True), COLUMNS[1])
    table = EhrDomain().read_kept(path, columns, unit=None, records_per_unit=1, keep=KEEP)
    assert (len(table.records), table.left_out) == (20, 20)
    assert np.isfinite(table.records).all()


def study(domain: str = "table", site_column: str | None = None) -> Study:
    keys = {site: base64.b64encode(bytes([i + 1]) * 32).decode() for i, site in enumerate("abc")}
    privacy = {"mode": "local", "epsilon": 5.0, "delta": 1e-5, "units_per_site": 40, "sample_rate": 0.5, "steps": 6}
    return Study.model_validate(
        {
            "format": 1,
            "name": "first",
            "target": "ill",
            "domain": domain,
            "site_column": site_column,
            "privacy": privacy,
            "model": {"plugin": "vae"},
            "columns": [each.model_dump() for each in COLUMNS],
            "cohort": {"tolerated": 1, "quorum": 3, "sites": [{"id": site, "key": key} for site, key in keys.items()]},
        }
    )


def test_the_site_column_stands_beside_the_rows_that_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(HEADER + "a,30,no,no\na,31,yes,yes\n")
    table = read_site(path, study(site_column="hospital"), TableDomain(), "b", keep=KEEP)
    assert (table.records.tolist(), table.left_out) == ([[31.0, 1.0, 1.0]], 1)


def test_a_domain_that_cannot_leave_records_out_is_refused_before_it_reads(tmp_path: Path) -> None:
    assert isinstance(TableDomain(), KeepingDomain)
    for domain in (ImageDomain(), SignalDomain()):
        assert not isinstance(domain, KeepingDomain)
    with pytest.raises(
        ConfigError, match=r"policy\.consent: domain 'image' cannot leave records out by column 'consent'"
    ):
        read_site(tmp_path / "missing", study("image"), ImageDomain(), "a", keep=KEEP)
