"""A study with a site column all the way: rows by site differ as the sites do, and no file says whose its rows are."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthfed.plugins.cli import app
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.study import Study, parse_study
from synthfed.server.release import audit_release, open_release
from synthfed.server.study_file import render_study

ROWS = 1500
RATES = {"alps": (0.85, 0.6), "coast": (0.15, 0.05), "north": (0.5, 0.3)}
"""Of each site: the share of ill persons, and of rows in which the pressure is missing."""
COLUMNS: list[dict[str, Any]] = [
    {"name": "age", "kind": "integer", "lower": 18, "upper": 90},
    {"name": "pressure", "kind": "real", "lower": 60, "upper": 200, "decimals": 0, "missing": True},
    {"name": "ill", "kind": "categorical", "values": ["no", "yes"]},
]


def study(mode: str = "distributed", **changes: Any) -> Study:
    sites = [{"id": site} for site in ("north", "alps", "coast")]
    return Study.model_validate(
        {
            "format": 1,
            "name": "by-site",
            "target": "ill",
            "site_column": "hospital",
            "privacy": {
                "mode": mode,
                "epsilon": 8.0,
                "delta": 1e-5,
                "units_per_site": ROWS,
                "sample_rate": 0.2,
                "steps": 20,
            },
            "model": {"plugin": "tabular-gan"},
            "cohort": {"tolerated": 1, "quorum": 3, "sites": sites},
            "columns": COLUMNS,
            **changes,
        }
    )


def write_table(path: Path, site: str, rows: int = ROWS, name: str = "") -> Path:
    """Write a site's table, with a further column of that name."""
    rate, gap = RATES[site]
    rng = np.random.default_rng([sorted(RATES).index(site), rows])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(column["name"] for column in COLUMNS), *([name] if name else [])])
        for _ in range(rows):
            ill = rng.random() < rate
            pressure = "" if rng.random() < gap else round(rng.normal(150 if ill else 110, 12))
            row = [int(rng.integers(18, 91)), pressure, "yes" if ill else "no"]
            writer.writerow([*row, *([site] if name else [])])
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def synthfed(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def simulate(folder: Path, mode: str) -> Path:
    (folder / "study.toml").write_text(render_study(study(mode)))
    tables = {site: write_table(folder / f"{site}.csv", site) for site in RATES}
    sites = [part for site, table in tables.items() for part in ("--site", f"{site}={table}")]
    synthfed("simulate", folder / "study.toml", *sites, "--out", folder / "release", "--rows", 3000, "--seed", 3)
    return folder / "release"


def rates(rows: list[dict[str, str]]) -> tuple[float, float]:
    """Return the shares of ill persons and of missing pressures."""
    return (
        float(np.mean([row["ill"] == "yes" for row in rows])),
        float(np.mean([row["pressure"] == "" for row in rows])),
    )


@pytest.fixture(scope="module", params=["distributed", "local"])
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp(request.param), request.param)


def test_a_study_file_with_a_site_column_is_written_and_read_back() -> None:
    written = render_study(study())
    assert 'site_column = "hospital"' in written
    assert parse_study(written, where="x").canonical == study().canonical
    assert "site_column" not in render_study(study(site_column=None))


def test_rows_of_each_site_are_as_its_own_and_as_many(release: Path) -> None:
    """Of 1000 rows a share has a standard deviation of at most 0.016, that of 3000 rows 0.009; noise adds less.

    The tolerances are six of them: false alarms of 9 shares below 2e-8, and the mechanism's noise is not seeded.
    """
    rows = read(release / "synthetic.csv")
    assert list(rows[0]) == [*(column["name"] for column in COLUMNS), "hospital"]
    assert {row["hospital"] for row in rows} == set(RATES)
    for site in RATES:
        own = [row for row in rows if row["hospital"] == site]
        assert len(own) / len(rows) == pytest.approx(1 / 3, abs=0.06)
        assert rates(own) == pytest.approx(rates(read(release.parent / f"{site}.csv")), abs=0.1)


def test_rows_of_one_site_can_be_asked_for_and_are_drawn_without_rejection(release: Path, tmp_path: Path) -> None:
    assert "hospital" in open_release(release).model.conditions
    asked = ["--where", "hospital = coast"]
    synthfed("sample", release, "--out", tmp_path / "coast.csv", "--rows", 1000, "--seed", 1, *asked)
    rows = read(tmp_path / "coast.csv")
    assert len(rows) == 1000
    assert {row["hospital"] for row in rows} == {"coast"}
    assert rates(rows) == pytest.approx(rates(read(release.parent / "coast.csv")), abs=0.1)


def test_the_release_samples_its_own_rows_again(release: Path, tmp_path: Path) -> None:
    synthfed("sample", release, "--out", tmp_path / "again.csv", "--rows", 3000, "--seed", 3)
    assert (tmp_path / "again.csv").read_bytes() == (release / "synthetic.csv").read_bytes()


def test_the_report_says_that_rows_tell_of_sites(release: Path) -> None:
    page = (release / "report.html").read_text()
    assert "tells rows by site on purpose" in page.replace("&#39;", "'")
    assert "it took part in no round" not in page


def test_an_audit_needs_rows_that_name_their_site_and_measures_it(release: Path, tmp_path: Path) -> None:
    opened = open_release(release)
    domain = opened.study.domain
    assert domain == "table"
    files = {rows: write_table(tmp_path / f"{rows}.csv", "north", rows, "hospital") for rows in (200, 201)}
    from synthfed.plugins.domains.table import TableDomain

    train, holdout = (
        TableDomain().read(path, opened.columns, unit=None, records_per_unit=1).records for path in files.values()
    )
    with pytest.raises(ConfigError, match="and last of its site column 'hospital', which these files must have"):
        audit_release(release, train=train[:, :-1], holdout=holdout, seed=0)
    findings = audit_release(release, train=train, holdout=holdout, seed=0)
    assert "hospital" in {each.column for finding in findings for each in finding.estimates}


def test_a_file_that_says_itself_whose_its_rows_are_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(render_study(study()))
    tables = {site: write_table(tmp_path / f"{site}.csv", site, 50, "hospital") for site in RATES}
    sites = [part for site, table in tables.items() for part in ("--site", f"{site}={table}")]
    with pytest.raises(DataError, match="has a column 'hospital', which is the study's site_column") as caught:
        synthfed("simulate", tmp_path / "study.toml", *sites, "--out", tmp_path / "release")
    assert "alps.csv" in str(caught.value)
