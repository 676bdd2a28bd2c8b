import json
from pathlib import Path

import numpy as np
import pytest
from tests.benchmarks.growth import BEGIN, END, QUICK, run, table, write_table
from tests.benchmarks.made_up_table import made_up_columns, made_up_rows


@pytest.mark.slow
def test_a_small_study_is_measured_once_and_fills_a_line_of_the_table(tmp_path: Path) -> None:
    out, page = tmp_path / "growth.json", tmp_path / "page.md"
    (row,) = run(QUICK, out)
    assert row["site_cpu_s"].keys() >= {"read", "handshake", "probe", "marginals", "pairs"}
    assert row["coordinator_cpu_s"].keys() == {"plan", "fit", "rounds", "release", "sample"}
    assert min(row["site_peak_mb"], row["coordinator_peak_mb"], row["bytes_up"]) > 0
    written = out.read_text()
    assert run(QUICK, out) == [row] == json.loads(written)["points"]
    assert out.read_text() == written
    page.write_text(f"before\n{BEGIN}old\n{END}after\n")
    write_table(page, table([row]))
    lines = page.read_text().splitlines()
    assert [line.count("|") for line in lines] == [0, 0, *[lines[2].count("|")] * 3, 0, 0]


def test_every_pair_of_made_up_columns_depends_on_the_kind_of_row() -> None:
    columns = made_up_columns(6)
    rows = made_up_rows(columns, 20_000, seed=1)
    assert np.array_equal(rows, made_up_rows(columns, 20_000, seed=1))
    related = np.abs(np.corrcoef(rows[:, [1, 2, 4, 5]], rowvar=False) - np.eye(4))
    assert related.max(0).min() > 0.1
