"""How a study takes it that the network between coordinator and sites is cut, without a word, for some time.

    python tests/e2e/network_cut.py --seconds 120

Needs network namespaces (`unshare --user --net`); never touches the network of the machine.
"""

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.e2e.conftest import Lab
from tests.e2e.networks import Networks

from synthfed.plugins.processes import free_port

SITES = ("east", "west")
STEPS = 24


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=120.0)
    seconds = parser.parse_args().seconds
    networks = Networks()
    with tempfile.TemporaryDirectory(prefix="synthfed-cut-") as name:
        lab = Lab(Path(name), free_port(), free_port(), networks)
        try:
            lab.make(SITES, "--mode", "local", "--steps", str(STEPS), "--answer-time", "0.2", "--statistic-time", "1")
            run(lab, networks, seconds)
        finally:
            lab.close()
            networks.close()


def run(lab: Lab, networks: Networks, seconds: float) -> None:
    """Cut the network in mid-training, print what is seen of it, and what was charged in the end."""
    server = lab.serve("server.log")
    lab.wait_for_run()
    for site in SITES:
        lab.join(site)
    lab.wait_for_step(6)
    start, shown = time.monotonic(), ""
    networks.cut()
    is_cut = True
    while server.poll() is None:
        now = time.monotonic() - start
        if is_cut and now > seconds:
            networks.mend()
            is_cut = False
            print(f"{now:6.1f} s  the network is back", flush=True)
        status = lab.status()
        line = f"{status['phase']}: {status.get('message')}, round {status['step']}"
        if line.partition(",")[0] != shown.partition(",")[0]:
            print(f"{now:6.1f} s  {line}", flush=True)
            shown = line
        time.sleep(0.1)
    print(f"{time.monotonic() - start:6.1f} s  coordinator ended with code {server.returncode}")
    print(lab.text("server.log")[-300:])
    evidence = json.loads((lab.folder / "release/evidence.json").read_text()) if not server.returncode else {}
    for site in SITES:
        with sqlite3.connect(lab.folder / site / "ledger.db") as db:
            (charges,) = db.execute("SELECT COUNT(*) FROM entries WHERE kind = 'charge'").fetchone()
        asked = [each["rounds"] for each in evidence.get("sites", []) if each["id"] == site]
        print(f"{site}: {charges} charges, asked for {asked}; {lab.text(f'{site}.log')}")


if __name__ == "__main__":
    main()
