"""The demo: nineteen real processes, from data to release, and nothing left of them."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from synthfed.plugins.api import Records, Source
from synthfed.plugins.audits.fidelity import Fidelity
from synthfed.plugins.domains.table import TableDomain
from synthfed.protocols.study import parse_study
from synthfed.server.demo_data import COLUMNS, RECORDS_PER_PERSON, UNIT, write_demo_tables

pytestmark = pytest.mark.slow


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "synthfed.plugins.cli", "demo", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def pair_distances(release: Path, folder: Path) -> tuple[float, float]:
    """Return tvd2 to held-out persons of a release, and of the same rows with every column shuffled by itself."""
    tables = write_demo_tables(folder)

    def read(path: Path, unit: str | None, records_per_unit: int) -> Records:
        return TableDomain().read(path, COLUMNS, unit=unit, records_per_unit=records_per_unit).records

    train, holdout = (read(path, UNIT, RECORDS_PER_PERSON) for path in (tables.train, tables.holdout))
    synthetic = read(release / "synthetic.csv", None, 1)
    shuffled = np.random.default_rng(0).permuted(synthetic, axis=0)
    study = parse_study((release / "study.toml").read_text(encoding="utf-8"), where="study.toml")
    distances = []
    for rows in (synthetic, shuffled):
        sources: dict[Source, Records] = {"synthetic": rows, "train": train, "holdout": holdout}
        distances.append(next(each.value for each in Fidelity().run(study, sources, 0) if each.name == "tvd2"))
    return distances[0], distances[1]


def test_the_demo_writes_a_release_and_leaves_no_process(tmp_path: Path, left_over: Callable[[str], list[str]]) -> None:
    demo = start(tmp_path, "--steps", "15", "--seed", "1")
    output, _ = demo.communicate(timeout=400)
    assert demo.returncode == 0, output
    assert "AUC on real rows" in output
    release = tmp_path / "release"
    evidence = json.loads((release / "evidence.json").read_text())
    assert evidence["mode"] == "distributed"
    assert [site["id"] for site in evidence["sites"]] == [f"site-{number}" for number in range(1, 7)]
    assert all(0 < site["epsilon_spent"] <= evidence["epsilon"] <= 5.0 for site in evidence["sites"])
    assert evidence["epsilon_if_secagg_fails"] > evidence["epsilon"]
    with (release / "synthetic.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16_000
    assert {row["admitted"] for row in rows} == {"yes", "no"}
    own, independent = pair_distances(release, tmp_path)
    assert own < independent, "closer to real pairs of columns than independent histograms of the same release"
    assert not left_over("synthfed-demo-")


def test_an_interrupted_demo_leaves_no_process_and_no_folder(
    tmp_path: Path, left_over: Callable[[str], list[str]]
) -> None:
    demo = start(tmp_path)
    time.sleep(12)  # the SuperLink and the first agents are up
    assert left_over("synthfed-demo-")
    os.kill(demo.pid, signal.SIGINT)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    assert not left_over("synthfed-demo-")
    assert not list(Path("/tmp").glob("synthfed-demo-*"))
    assert not (tmp_path / "release").exists()
