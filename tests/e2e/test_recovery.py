"""A federation of real processes that are killed in the middle and go on."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def charged(home: Path) -> dict[str, int]:
    with sqlite3.connect(home / "ledger.db") as db:
        counts = dict(db.execute("SELECT kind, COUNT(*) FROM entries GROUP BY kind").fetchall())
    db.close()
    return counts


def test_a_run_goes_on_after_all_relays_the_coordinators_processes_and_an_agent_were_killed(lab: Any) -> None:
    sites, steps = ("east", "north", "west"), 80
    lab.make(sites, "--steps", str(steps), "--answer-time", "0.1", "--statistic-time", "1")
    first = lab.serve("first.log")
    lab.wait_for_run()
    for site in sites:
        lab.join(site)
    lab.wait_for_step(8)
    lab.kill("flwr-clientapp")  # all three relays at once; Flower starts them again when it misses them
    lab.wait_for_step(24)
    assert first.poll() is None
    for site in sites:
        assert lab.text(f"{site}.log").count("agent started") == 1, "for the loss of its relay"
    lab.kill("flwr-serverapp")
    assert first.wait(timeout=60) == 6
    assert "go on with --resume" in lab.text("first.log")

    second = lab.serve("second.log", "--resume")
    lab.wait_for_step(40)
    lab.kill("flower-superlink")
    assert second.wait(timeout=60) == 6
    assert "--resume" in lab.text("second.log")

    third = lab.serve("third.log", "--resume")
    lab.wait_for_step(56)
    lab.kill("client agent --home east")
    assert third.wait(timeout=240) == 0, lab.text("third.log")
    assert [lab.text(f"{site}.log").count("agent started") for site in sites] == [2, 1, 1]

    # A crash costs the sum of the round it hit, never a second charge for one already counted.
    evidence = json.loads((lab.folder / "release/evidence.json").read_text())
    rounds = {site["id"]: site["rounds"] for site in evidence["sites"]}
    for site in sites:
        spent = charged(lab.folder / site)
        assert spent["critic"] <= steps
        assert spent["marginals"] <= 2
        assert sum(spent.values()) <= rounds[site]
    critic = next(each for each in evidence["sums"] if each["name"] == "critic")
    assert critic["rounds_released"] >= steps - 10
    assert (lab.folder / "release/report.html").exists()


def test_steps_can_travel_as_flower_messages_where_a_second_port_is_impossible(lab: Any) -> None:
    lab.make(
        ("east", "west"),
        *("--mode", "local", "--steps", "1", "--option", 'start="marginals"'),
        *("--answer-time", "0.1", "--statistic-time", "0.5"),
    )
    for site in ("east", "west"):  # before the coordinator knows their nodes, which are turned away at first
        lab.join(site)
    server = lab.serve("server.log", "--transport", "messages")
    assert server.wait(timeout=240) == 0, lab.text("server.log")
    assert charged(lab.folder / "east") == {"marginals": 2, "critic": 1}
