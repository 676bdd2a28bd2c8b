from pathlib import Path

import pytest
from tests.benchmarks.loading import run, table


@pytest.mark.slow
def test_a_small_table_is_measured_from_every_source(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = run(2000, 3, tmp_path)
    assert [row["source"] for row in rows][:3] == ["CSV", "Parquet", "SQLite"]
    assert all(min(row["wall_s"], row["cpu_s"], row["encode_cpu_s"], row["peak_mb"]) > 0 for row in rows)
    lines = table(rows).splitlines()
    assert [line.count("|") for line in lines] == [8] * (2 + len(rows))
