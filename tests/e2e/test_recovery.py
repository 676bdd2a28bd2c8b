"""A federation of real processes that are killed in the middle and go on."""

import json
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, "this should have happened by now"
        time.sleep(0.2)


def charged(home: Path) -> dict[str, int]:
    with sqlite3.connect(home / "ledger.db") as db:
        charges = "SELECT content ->> 'sum' AS name, COUNT(*) FROM entries WHERE kind = 'charge' GROUP BY name"
        counts = dict(db.execute(charges).fetchall())
    db.close()
    return counts


def test_a_run_goes_on_after_the_coordinators_processes_and_an_agent_were_killed(lab: Any) -> None:
    lab.make(("east", "north", "west"), "--steps", "60", "--answer-time", "0.1")
    for site in ("east", "north", "west"):
        lab.join(site)

    first = lab.serve("first.log")
    lab.wait_for_step(12)
    lab.kill("flwr-serverapp")
    assert first.wait(timeout=60) == 6
    assert "go on with --resume" in lab.text("first.log")

    second = lab.serve("second.log", "--resume")
    lab.wait_for_step(24)
    lab.kill("flower-superlink")
    assert second.wait(timeout=60) == 6
    assert "--resume" in lab.text("second.log")

    third = lab.serve("third.log", "--resume")
    lab.wait_for_step(36)
    lab.kill("client agent --home east")
    assert third.wait(timeout=240) == 0, lab.text("third.log")

    # A crash costs the sum of the round it hit, never a second charge for one already counted.
    evidence = json.loads((lab.folder / "release/evidence.json").read_text())
    rounds = {site["id"]: site["rounds"] for site in evidence["sites"]}
    for site in ("east", "north", "west"):
        spent = charged(lab.folder / site)
        assert spent["critic"] <= 60
        assert spent["marginals"] <= 2
        assert sum(spent.values()) <= rounds[site]
    critic = next(each for each in evidence["sums"] if each["name"] == "critic")
    assert critic["rounds_released"] >= 50


def test_a_coordinator_whose_terminal_closes_ends_with_all_it_started_and_can_begin_again(
    lab: Any, left_over: Callable[[str], list[str]]
) -> None:
    """Nothing had been asked, so the run that was begun gives way."""
    lab.make(("east", "west"), "--mode", "local", "--steps", "1", "--answer-time", "0.1")
    first = lab.serve("first.log")
    wait_for(lambda: "waiting: 0 of 2 sites" in lab.text("first.log"))
    first.send_signal(signal.SIGHUP)
    assert first.wait(timeout=60) == 130, lab.text("first.log")
    assert not left_over(str(lab.coordinator))

    for site in ("east", "west"):
        lab.join(site)
    second = lab.serve("second.log")
    assert second.wait(timeout=240) == 0, lab.text("second.log")
    assert "had asked no site for anything; it is now study~unused-1" in lab.text("second.log")
    assert (lab.coordinator / "runs/study~unused-1/study.toml").exists()
    assert "unused" not in lab.run("server", "status")


def test_a_killed_node_comes_back_and_losing_it_never_restarts_the_agent(lab: Any) -> None:
    lab.make(("east", "north", "west"), "--steps", "40", "--answer-time", "0.1")
    for site in ("east", "north", "west"):
        lab.join(site)
    server = lab.serve("server.log")
    lab.wait_for_step(8)
    lab.kill("flwr-clientapp")  # all three relays at once
    assert server.wait(timeout=240) == 0, lab.text("server.log")
    for site in ("east", "north", "west"):
        assert lab.text(f"{site}.log").count("agent started") == 1
    assert (lab.folder / "release/report.html").exists()


def test_steps_can_travel_as_flower_messages_where_a_second_port_is_impossible(lab: Any) -> None:
    lab.make(
        ("east", "west"), "--mode", "local", "--steps", "1", "--answer-time", "0.1", "--option", 'start="marginals"'
    )
    for site in ("east", "west"):
        lab.join(site)
    server = lab.serve("server.log", "--transport", "messages")
    assert server.wait(timeout=240) == 0, lab.text("server.log")
    assert charged(lab.folder / "east") == {"marginals": 2, "critic": 1}
