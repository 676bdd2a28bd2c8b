"""A study with constraints all the way: simulated, released, sampled anew and on conditions, compared."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tests.client.homes import SMALL

from synthfed.plugins.cli import app
from synthfed.plugins.constrained import make_model
from synthfed.plugins.pinning import pin
from synthfed.plugins.registry import find
from synthfed.protocols.study import Study, parse_study
from synthfed.server.compare.entries import DataSet
from synthfed.server.compare.plan import Wanted
from synthfed.server.compare.run import study_of
from synthfed.server.drafting import with_sites
from synthfed.server.release import open_release
from synthfed.server.study_file import render_study

YEARS = {"school": 9, "college": 13, "university": 16}
COLUMNS: list[dict[str, Any]] = [
    {"name": "education", "kind": "categorical", "values": list(YEARS), "missing": True},
    {"name": "years", "kind": "integer", "lower": 0, "upper": 20},
    {"name": "rent", "kind": "real", "lower": 0, "upper": 50, "decimals": 2, "missing": True},
    {"name": "food", "kind": "real", "lower": 0, "upper": 50, "decimals": 2},
    {"name": "costs", "kind": "real", "lower": 0, "upper": 60, "decimals": 2, "missing": True},
    {"name": "diastolic", "kind": "integer", "lower": 40, "upper": 120},
    {"name": "systolic", "kind": "integer", "lower": 60, "upper": 200},
    {"name": "ill", "kind": "categorical", "values": ["no", "yes"]},
]
CONSTRAINTS: list[dict[str, Any]] = [
    {"kind": "determines", "determinant": "education", "determined": "years", "table": YEARS, "missing": 0},
    {"kind": "sum", "total": "costs", "parts": ["rent", "food"]},
    {"kind": "order", "columns": ["diastolic", "systolic"], "strict": True},
]
PRIVACY = {"mode": "distributed", "epsilon": 5.0, "delta": 1e-5, "units_per_site": 400, "sample_rate": 0.3, "steps": 6}


def study(model: str = "tabular-gan", options: dict[str, Any] | None = None) -> Study:
    return Study.model_validate(
        {
            "format": 1,
            "name": "bound",
            "target": "ill",
            "privacy": PRIVACY,
            "model": {"plugin": model, "options": SMALL if options is None else options},
            "cohort": {"tolerated": 1, "quorum": 3, "sites": [{"id": site} for site in "abc"]},
            "columns": COLUMNS,
            "constraints": CONSTRAINTS,
        }
    )


def write_table(path: Path, seed: int, rows: int = 120) -> Path:
    """Write a site's table; in some rows its constraints do not hold."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([column["name"] for column in COLUMNS])
        for i in range(rows):
            education = ["", *YEARS][int(rng.integers(4))]
            rent, food, low = rng.uniform(0, 30), rng.uniform(0, 30), int(rng.integers(40, 110))
            paid = "" if i % 7 == 0 else f"{rent:.2f}"
            costs = f"{float(paid) + float(f'{food:.2f}'):.2f}" if paid else ""
            years = 20 if i < 5 else YEARS.get(education, 0)
            writer.writerow([education, years, paid, f"{food:.2f}", costs, low, low + 30, "yes" if low > 80 else "no"])
    return path


def check(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert row["years"] == str(YEARS.get(row["education"], 0))
        assert int(row["diastolic"]) < int(row["systolic"])
        cents = [int(row[name].replace(".", "")) if row[name] else None for name in ("rent", "food", "costs")]
        assert cents[1] is not None
        assert cents[2] == (None if cents[0] is None else cents[0] + cents[1])
        assert cents[2] is None or cents[2] <= 6000


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def synthfed(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("constrained")
    (folder / "study.toml").write_text(render_study(study()))
    tables = {name: write_table(folder / f"{name}.csv", i) for i, name in enumerate("abc")}
    sites = [part for name, table in tables.items() for part in ("--site", f"{name}={table}")]
    synthfed("simulate", folder / "study.toml", *sites, "--out", folder / "release", "--rows", 400, "--seed", 3)
    return folder / "release"


def test_a_study_file_with_constraints_is_written_and_read_back() -> None:
    assert parse_study(render_study(study()), where="x").canonical == study().canonical


def test_every_row_of_a_simulated_release_keeps_every_constraint(release: Path) -> None:
    rows = read(release / "synthetic.csv")
    assert len(rows) == 400
    assert list(rows[0]) == [column["name"] for column in COLUMNS]
    check(rows)


def test_the_release_is_of_the_signed_terms_and_samples_the_same_rows_again(release: Path, tmp_path: Path) -> None:
    opened = open_release(release)
    assert opened.study.constraints == study().constraints
    assert opened.model.conditions == make_model(opened.plugin, opened.study).conditions
    synthfed("sample", release, "--out", tmp_path / "again.csv", "--rows", 400, "--seed", opened.manifest.seed)
    assert (tmp_path / "again.csv").read_bytes() == (release / "synthetic.csv").read_bytes()


@pytest.mark.parametrize(
    ("conditions", "column", "allowed"),
    [
        (["years = 13"], "education", {"college"}),
        (["education = university"], "years", {"16"}),
        (["education is missing"], "years", {"0"}),
        (["costs is missing"], "rent", {""}),
        (["costs in 0..40", "ill = yes"], "ill", {"yes"}),
    ],
)
def test_rows_on_conditions_keep_every_constraint(
    release: Path, tmp_path: Path, conditions: list[str], column: str, allowed: set[str]
) -> None:
    flags = [part for text in conditions for part in ("--where", text)]
    synthfed("sample", release, "--out", tmp_path / "some.csv", "--rows", 60, "--seed", 1, *flags)
    rows = read(tmp_path / "some.csv")
    assert len(rows) == 60
    assert {row[column] for row in rows} == allowed
    check(rows)


def test_no_sum_is_planned_for_what_is_derived() -> None:
    pinned = pin(with_sites(study(), study().cohort.sites))
    whole = study().model_copy(update={"constraints": ()})
    spent, more = (sum(kind.sum.dim for kind in pin(each).policy.plan.kinds) for each in (study(), whole))
    assert spent < more
    assert pinned.model.private().encode(np.zeros((2, len(COLUMNS)))).shape[0] == 2
    assert pinned.policy.study.hash != study().free.hash


def test_steps_of_a_walk_keep_every_constraint(tmp_path: Path) -> None:
    terms = study("vae", {})
    trainer = make_model(find("synthfed.models", "vae"), terms).trainer(0)
    records = trainer.walk(3, 5, 0)
    assert records.shape == (15, len(COLUMNS))
    pin(terms).domain.write(tmp_path / "walk.csv", terms.columns, [records])
    check(read(tmp_path / "walk.csv"))


def test_a_comparison_gives_its_studies_the_constraints_of_the_data() -> None:
    fields = {"name": "d", "source": "d.csv", "target": "ill", "sites": 3, "privacy": PRIVACY, "columns": COLUMNS}
    plain, bound = (DataSet.model_validate(fields | more) for more in ({}, {"constraints": CONSTRAINTS}))
    made = study_of(bound, "tabular-gan", study().model, bound.privacy, "abc")
    assert made.constraints == study().constraints
    assert Wanted("floor", plain, 1).terms != Wanted("floor", bound, 1).terms
    with pytest.raises(ValidationError, match="constraint 1: total: 'ill' is the target"):
        DataSet.model_validate(fields | {"constraints": [{"kind": "sum", "total": "ill", "parts": ["rent", "food"]}]})


def test_what_a_repair_may_change_is_no_condition_that_the_model_fixes() -> None:
    assert set(pin(study()).model.conditions) == {"education", "ill"}
