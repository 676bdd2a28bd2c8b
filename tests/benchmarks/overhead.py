"""Overhead of a federated step: time of a round minus the sites' fixed answer time.

Five sites on loopback, every process real (SuperLink, SuperExec, ServerApp, nodes, relays, agents).
Prints a table and writes JSON; it is no test. Never compares runs of different machines.

    python tests/benchmarks/overhead.py --out overhead.json
"""

import argparse
import contextlib
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import torch

from synthfed.client.local_steps import seconds_per_round
from synthfed.plugins.models.adversarial.engine import CRITIC
from synthfed.plugins.pinning import pin
from synthfed.plugins.processes import Child, close_all, flower_environment, free_port, this_program
from synthfed.protocols.schema import Categorical
from synthfed.protocols.study import ModelTerms, Privacy, Study
from synthfed.server.conduct import Request, conduct
from synthfed.server.drafting import make_study
from synthfed.server.home import ServerHome, enrol, init_home
from synthfed.server.store import Run
from synthfed.server.study_file import render_study

SITES = 5
COLUMNS = tuple(Categorical(name=f"c{number}", values=tuple("abcdefghij")) for number in range(20))
WIDTHS = {100_000: 230, 1_000_000: 905}
HEADROOM = 20  # five sites and the coordinator share the cores, perhaps with others


def study(home: ServerHome, dim: int, steps: int, answer_time_s: float = 1.0) -> Study:
    """Return a study whose critic has about ``dim`` parameters."""
    options = {
        "refine": True,
        "start": "marginals",
        "critic_hidden": WIDTHS[dim],
        "batch": 64,
        "generator_hidden": 16,
        "generator_steps": 1,
    }
    privacy = Privacy(
        mode="distributed",
        epsilon=20.0,
        delta=1e-5,
        units_per_site=300,
        sample_rate=0.05,
        steps=steps,
        answer_time_s=answer_time_s,
        statistic_time_s=0.5,
    )
    return make_study(
        name=f"overhead-{dim}",
        target="c0",
        domain="table",
        privacy=privacy,
        model=ModelTerms(plugin="tabular-gan", options=options),
        cohort={"sites": [site.roster_entry for site in home.sites().values()], "tolerated": 1, "quorum": 4},
        columns=COLUMNS,
    )


def step_s(terms: Study) -> float:
    """Return the time of one critic step on made-up rows, one thread, in seconds."""
    torch.set_num_threads(1)
    pinned = pin(terms)
    kind = pinned.policy.plan.kind(CRITIC)
    assert kind is not None
    return statistics.median([seconds_per_round(pinned, kind) for _ in range(12)][2:])


def make_sites(folder: Path, home: ServerHome) -> list[Path]:
    """Return the homes of new, enrolled sites with small tables."""
    lines = [",".join(column.name for column in COLUMNS)]
    lines += [",".join("abcdefghij"[(row * 7 + number) % 10] for number in range(20)) for row in range(300)]
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    homes = [folder / f"site-{number}" for number in range(SITES)]
    for path in homes:
        invited = ["client", "init", "--invitation", str(home.invitation), "--site", path.name, "--home", str(path)]
        subprocess.run(this_program(*invited, "--data", "../table.csv"), check=True, stdout=subprocess.DEVNULL)
        enrol(home, path / "enrolment.json")
    return homes


def measure(dim: int, steps: int, transport: str) -> dict[str, object]:
    """Return the overhead of the critic's rounds, in milliseconds."""
    load = os.getloadavg()[0]
    folder = Path(tempfile.mkdtemp(prefix="synthfed-bench-", dir="/tmp"))
    home = ServerHome(folder / "coordinator")
    children: list[Child] = []
    try:
        init_home(home, "127.0.0.1", "127.0.0.1", free_port(), free_port())
        homes = make_sites(folder, home)
        alone_s = step_s(study(home, dim, steps))
        answer_s = math.ceil(20 * HEADROOM * alone_s) / 20
        terms = study(home, dim, steps, answer_s)
        file = folder / "study.toml"
        file.write_text(render_study(terms), encoding="utf-8")
        for path in homes:
            site_toml = path / "site.toml"
            site_toml.write_text(site_toml.read_text().replace("epsilon = 8.0", "epsilon = 50.0"), encoding="utf-8")
            agreed = this_program("client", "approve", str(file), "--home", str(path))
            subprocess.run(agreed, check=True, stdout=subprocess.DEVNULL)
            # A register each: all of them have the same rows.
            environment = {**flower_environment(path / "flwr"), "XDG_STATE_HOME": str(path / "state")}
            children.append(
                Child(path.name, this_program("client", "run", "--home", str(path)), path / "run.log", environment)
            )
        request = Request(file, folder / "release", 100, 0, 180.0, transport, resume=False)

        def start_sites() -> None:
            for child in children:
                child.start()

        conduct(home, request, lambda _: None, start_sites)
        loaded = Run(home.run_folder(terms.name)).load(terms)
        assert loaded is not None
        rounds = [each["seconds"] for each in loaded[1].history][2:]  # the marginals come first
        over_ms = sorted(1000 * (seconds - answer_s) for seconds in rounds)
        kind = pin(terms).policy.plan.kind(CRITIC)
        assert kind is not None
        return {
            "transport": transport,
            "dim": kind.sum.dim,
            "rounds": len(rounds),
            "load_before": load,
            "step_on_made_up_rows_ms": 1000 * alone_s,
            "answer_time_ms": 1000 * answer_s,
            "overhead_ms_median": statistics.median(over_ms),
            "overhead_ms_90": over_ms[int(0.9 * (len(over_ms) - 1))],
        }
    finally:
        close_all(children)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Measure both sizes over the step stream, and the small one over Flower messages."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("overhead.json"))
    out = parser.parse_args().out
    results = [
        measure(100_000, 60, "session"),
        measure(1_000_000, 30, "session"),
        measure(100_000, 3, "messages"),
    ]
    machine = {
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }
    out.write_text(
        json.dumps({"sites": SITES, "machine": machine, "results": results}, indent=2) + "\n", encoding="utf-8"
    )
    for result in results:
        print(
            "  ".join(
                f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}"
                for name, value in result.items()
            )
        )


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
