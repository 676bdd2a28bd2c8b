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
    lab.kill("flwr-serverapp", signal.SIGSTOP)
    time.sleep(2)  # the step in work ends: an agent that dies inside one waits for a person, by design
    lab.kill("client agent --home east")
    lab.kill("flwr-serverapp", signal.SIGCONT)
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


def test_a_coordinator_whose_terminal_closes_ends_with_all_it_started_and_can_begin_again(
    lab: Any, left_over: Callable[[str], list[str]]
) -> None:
    """Nothing had been asked, so the run that was begun gives way."""
    lab.make(("east", "west"), "--mode", "local", "--steps", "1", "--answer-time", "0.1", "--statistic-time", "0.5")
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
    assert charged(lab.folder / "east") == {"marginals": 2, "critic": 1, "comparison": 2}
