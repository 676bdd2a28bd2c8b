"""Other projects' systems in a comparison: what they are told, what comes back, and how they fail."""

import json
import stat
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import Records
from synthfed.server.compare import peer_process
from synthfed.server.compare.comparison import Request, compare
from synthfed.server.compare.entries import DataSet, Peer
from synthfed.server.compare.peers import draw, told

PLAN = """
format = 1
seeds = [0]
epsilons = [3, inf]

[[models]]
name = "gan"
data = ["iris"]
steps = 2
options = { refine = true, bins = 6, fit_steps = 20, fakes = 32, critic_hidden = 8 }

[[peers]]
name = "copula"
system = "gaussian-copula"
data = ["iris"]

[[data]]
name = "iris"
source = "sklearn:iris"
target = "target"
sites = 3
few = 9
privacy = { mode = "distributed", epsilon = 10, delta = 1e-5, units_per_site = 40, sample_rate = 0.2, steps = 5 }
columns = [
    { name = "petal length (cm)", kind = "real", lower = 1, upper = 7, decimals = 1 },
    { name = "petal width (cm)", kind = "real", lower = 0, upper = 3, decimals = 1 },
    { name = "target", kind = "categorical", values = ["setosa", "versicolor", "virginica"] },
]
"""
COLUMNS = [
    {"name": "age", "kind": "integer", "lower": 0, "upper": 99, "missing": True},
    {"name": "spent", "kind": "real", "lower": 0, "upper": 9, "decimals": 1},
    {"name": "ill", "kind": "categorical", "values": ["0", "1"], "missing": True},
]
ROWS: Records = np.array([[30.0, 1.5, 0.0], [np.nan, 2.5, 1.0], [50.0, 3.5, np.nan]])


def data() -> DataSet:
    privacy = {"mode": "distributed", "epsilon": 2.0, "delta": 1e-5, "units_per_site": 40, "sample_rate": 0.2}
    return DataSet.model_validate(
        {
            "name": "d",
            "source": "d.csv",
            "target": "ill",
            "sites": 2,
            "columns": COLUMNS,
            "privacy": {**privacy, "steps": 1},
        }
    )


def peer(system: str = "aim", **fields: Any) -> Peer:
    return Peer.model_validate({"name": "p", "system": system, "data": ["d"], **fields})


def impostor(path: Path, *lines: str) -> Path:
    """A program in the place of an interpreter, which is told the script and the folder that a peer's would be."""
    path.write_text(
        "\n".join([f"#!{sys.executable}", "import sys, pathlib", "folder = pathlib.Path(sys.argv[3])", *lines])
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


ANSWER = json.dumps({"cost": {"seconds": 1.0, "cpu_seconds": 2.0, "peak_mib": 3.0}, "versions": {"sdv": "2"}})


def test_a_peer_gets_the_rows_and_gives_back_its_own(tmp_path: Path) -> None:
    python = impostor(
        tmp_path / "python",
        "(folder / 'drawn.csv').write_text((folder / 'train.csv').read_text())",
        f"(folder / 'answer.json').write_text({ANSWER!r})",
    )
    drawn = draw(peer(), data(), ROWS, 7, python, tmp_path)
    assert np.array_equal(drawn.records, ROWS, equal_nan=True)
    assert (drawn.cost.seconds, drawn.cost.peak_mib, drawn.cost.state_numbers) == (1.0, 3.0, None)
    assert drawn.versions == {"sdv": "2"}


def test_a_private_peer_is_told_the_promise_and_another_is_not() -> None:
    private, other = (told(peer(system), data(), 3, 7) for system in ("mst", "ctgan"))
    assert (private["epsilon"], private["delta"], private["seed"], private["rows"]) == (2.0, 1e-5, 7, 3)
    assert (other["epsilon"], other["delta"]) == (None, None)
    assert private["columns"][2] == {"name": "ill", "kind": "categorical", "missing": True, "values": ["0", "1"]}
    assert private["columns"][1]["decimals"] == 1


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        (["sys.exit(3)"], DataError, "peer 'p' ended with 3; what it said is above"),
        (["(folder / 'answer.json').write_text('{}x')"], DataError, "an answer that cannot be read"),
        (["import time", "time.sleep(60)"], DataError, "was ended after 0.005 minutes"),
        (["(folder / 'answer.json').write_text('{\"missing\": \"sdv\"}')"], ConfigError, "needs sdv; .*--peers-python"),
    ],
)
def test_a_peer_that_fails_says_how(tmp_path: Path, lines: list[str], error: type[Exception], message: str) -> None:
    python = impostor(tmp_path / "python", *lines)
    minutes = 0.005 if "time.sleep(60)" in lines else 1.0
    with pytest.raises(error, match=message):
        draw(peer(most_minutes=minutes), data(), ROWS, 0, python, tmp_path)


def test_an_interpreter_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    for name, message in (("nothing", "is not there"), ("text", "is no program")):
        with pytest.raises(ConfigError, match=f"--peers-python.*{message}"):
            draw(peer(), data(), ROWS, 0, tmp_path / name, tmp_path)


def test_a_peers_public_domain_is_that_of_the_schema_and_missing_is_one_more_category() -> None:
    columns = told(peer(), data(), 3, 0)["columns"]
    domains = [peer_process.domain_of(column) for column in columns]
    assert domains == [
        {"lower": 0, "upper": 99},
        {"lower": 0, "upper": 9},
        {"categories": ["0", "1", peer_process.MISSING]},
    ]


def test_a_table_survives_the_way_into_a_frame_and_back(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="a peer's process reads its rows with pandas, which is not installed")
    spec = {"columns": told(peer(), data(), 3, 0)["columns"]}
    (tmp_path / "train.csv").write_text("age,spent,ill\n30,1.5,0\n,2.5,1\n50,3.5,\n", encoding="utf-8")
    frame = peer_process.read(tmp_path / "train.csv", spec)
    assert frame["ill"].tolist() == ["0", "1", peer_process.MISSING]
    assert frame["age"].dtype == np.float64
    frame.loc[0, "age"], frame.loc[1, "spent"] = 120.4, -1.0
    peer_process.write(tmp_path / "drawn.csv", frame, spec)
    assert (tmp_path / "drawn.csv").read_text() == "age,spent,ill\n99,1.5,0\n,0.0,1\n50,3.5,\n"


def test_the_peak_of_memory_is_that_of_a_process_and_not_of_nothing() -> None:
    assert 10 < peer_process.peak_mib() < 100_000


def test_a_small_ladder_is_run_for_real_with_ours_the_floors_and_a_peer(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(PLAN, encoding="utf-8")
    said: list[str] = []
    request = Request(file, None, tmp_path / "r.json", tmp_path / "r.md", plot=tmp_path / "r.svg")
    failures = compare(request, said.append)
    runs = {run["model"]: run for run in json.loads(request.results.read_text())["runs"]}
    assert set(runs) == {"floor", "naive-bayes", "gan", "copula"}
    assert runs["gan"]["error"] == ""
    assert 0 < runs["gan"]["measures"]["auc-mean"]["value"] <= 1
    measured = [line for line in said if "coverage" in line]
    assert len(measured) >= 3
    assert all(", auc-mean 0." in line and " auc 0." not in line for line in measured)  # the score that the page shows
    assert (runs["gan"]["rung"], runs["copula"]["rung"]) == ("3", "inf")
    assert "<svg" in (tmp_path / "r.svg").read_text()
    assert "| 3 | `gan` | 3 |" in request.page.read_text()
    if find_spec("sdv") is None:
        assert failures == 1
        assert "needs pandas" in runs["copula"]["error"] or "needs sdv; install it" in runs["copula"]["error"]
        pytest.skip('the peer is not installed: pip install "synthfed[bench]"')
    assert failures == 0
    assert runs["copula"]["epsilon"] is None
    assert runs["copula"]["measures"]["tvd2"]["value"] < 0.9
    assert runs["copula"]["cost"]["seconds"] > 0
    compare(request, said.append)
    assert said[-1] == "0 of 4 runs are to be done"
