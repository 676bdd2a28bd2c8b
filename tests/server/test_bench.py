"""The packaged comparison with other projects' systems: its plan, its page and its command."""

from pathlib import Path

import pytest
import typer

from synthfed.protocols.errors import ConfigError
from synthfed.server.compare import cli
from synthfed.server.compare.plan import parse_plan
from synthfed.server.compare.results import Results
from synthfed.server.compare.table import BEGIN, END

ROOT = Path(__file__).parents[2]


def test_the_packaged_plan_is_valid_and_its_page_has_a_place_for_the_tables() -> None:
    plan = parse_plan(cli.TABLES.read_text(encoding="utf-8"), where="tables.toml")
    assert len(plan.seeds) == 3
    assert [data.name for data in plan.data if data.splits == ("equal", "skewed")] == [
        *("adult", "adult-full", "bank", "diabetes", "fraud", "german")
    ]
    page = (ROOT / "docs/tables.md").read_text(encoding="utf-8")
    assert page.index(BEGIN) < page.index(END)


def test_the_packaged_comparison_says_what_file_it_lacks(tmp_path: Path) -> None:
    command = typer.main.get_command(cli.app)
    with pytest.raises(ConfigError, match=r"has no german_credit.csv"):
        command.main(["tables", "--data", str(tmp_path), "--only", "data=german"], standalone_mode=False)


def test_the_published_runs_are_of_the_packaged_plan() -> None:
    plan = parse_plan(cli.TABLES.read_text(encoding="utf-8"), where="tables.toml")
    assert len(Results(ROOT / "docs/tables.json").of(plan.wanted())) > 10
