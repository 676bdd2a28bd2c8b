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

import pytest

pytestmark = pytest.mark.slow


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "synthfed.plugins.cli", "demo", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


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
    findings = json.loads((release / "report.json").read_text())["audits"]["findings"]
    pairs = next(each for finding in findings for each in finding["estimates"] if each["name"] == "tvd2")
    assert pairs["value"] < pairs["baseline"], "closer to real pairs of columns than independent columns are"
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
