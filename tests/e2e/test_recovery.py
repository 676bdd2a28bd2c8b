"""A federation of real processes that are killed in the middle and go on."""

import contextlib
import json
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
CUT_S = 25.0


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


def outcomes(home: Path) -> dict[str, int]:
    with contextlib.closing(sqlite3.connect(home / "ledger.db")) as db:
        told = "SELECT content ->> 'outcome' AS name, COUNT(*) FROM entries WHERE kind = 'outcome' GROUP BY name"
        return dict(db.execute(told).fetchall())


def test_a_study_goes_on_after_each_of_its_processes_its_network_and_its_machine_failed(
    lab: Any, networks: Any, left_over: Callable[[str], list[str]], subtests: pytest.Subtests
) -> None:
    sites, steps = ("east", "west"), 48
    lab.networks = None if isinstance(networks, str) else networks
    lab.make(sites, "--mode", "local", "--steps", str(steps), "--answer-time", "0.25", "--statistic-time", "0.5")

    seen = 0

    def goes_on() -> None:
        """Wait until rounds are asked for that no earlier status told of."""
        nonlocal seen
        seen = max(seen, lab.status()["step"])  # a run that starts tells of none at first
        wait_for(lambda: lab.status()["phase"] == "training" and lab.status()["step"] >= seen + 4)

    def starts(what: str) -> list[int]:
        return [lab.text(f"{site}.log").count(f"{what} started") for site in sites]

    # The terminal closes before any site was asked for anything: the run that was begun gives way.
    zeroth = lab.serve("zeroth.log")
    wait_for(lambda: "waiting: 0 of 2 sites" in lab.text("zeroth.log"))
    zeroth.send_signal(signal.SIGHUP)
    assert zeroth.wait(timeout=60) == 130, lab.text("zeroth.log")
    assert not left_over(str(lab.coordinator))

    first = lab.serve("first.log")
    wait_for(lambda: "had asked no site for anything; it is now study~unused-1" in lab.text("first.log"))
    lab.wait_for_run()
    for site in sites:
        lab.join(site)
    assert (lab.coordinator / "runs/study~unused-1/study.toml").exists()
    goes_on()

    # Flower takes up to a minute to miss a relay, so that the rest of what can fail at sites fails meanwhile.
    assert lab.kill("flwr-clientapp", "west") == 1
    wait_for(lambda: lab.status()["phase"] == "waiting")
    assert lab.kill("client agent", "east") == 1
    assert lab.kill("flower-supernode", "east") == 1
    with subtests.test("the network is cut for longer than a stream, a round and a handshake wait"):
        if isinstance(networks, str):
            pytest.skip(networks)
        networks.cut()
        over_s = time.monotonic() + CUT_S
        wait_for(lambda: lab.status()["message"] == "0 of 2 sites are connected")
        wait_for(lambda: "does not answer yet; trying again" in lab.text("east.log"))
        time.sleep(max(0.0, over_s - time.monotonic()))
        networks.mend()
    lab.pass_a_minute("east")
    goes_on()
    assert first.poll() is None
    assert (starts("agent"), starts("node")) == ([2, 1], [2, 1])

    assert lab.kill("flower-superexec", "west") == 1
    assert lab.kill("flwr-serverapp") == 1
    assert first.wait(timeout=60) == 6
    assert "go on with --resume" in lab.text("first.log")
    second = lab.serve("second.log", "--resume")
    goes_on()
    assert "node lost its flower-superexec" in lab.text("west.log")
    assert (starts("agent"), starts("node")) == ([2, 1], [2, 2])

    assert lab.kill("flower-superlink") == 1
    assert second.wait(timeout=60) == 6
    assert "go on with --resume" in lab.text("second.log")

    third = lab.serve("third.log", "--resume")
    goes_on()
    assert third.poll() is None
    lab.power_cut()
    assert "interrupted" in lab.run("server", "status")
    inside = [sum(charged(lab.folder / site).values()) - sum(outcomes(lab.folder / site).values()) for site in sites]
    for site, count in zip(sites, inside, strict=True):
        assert f"{count} interrupted" in lab.run("client", "clear", "--home", site), "a person looks"
    lab.pass_a_minute(*sites)
    for site in sites:  # before the coordinator
        lab.join(site)
    fourth = lab.serve("fourth.log", "--resume")
    assert fourth.wait(timeout=240) == 0, lab.text("fourth.log")

    # A failure costs the sum of the round it hit, never a second charge for one already counted.
    evidence = json.loads((lab.folder / "release/evidence.json").read_text())
    rounds = {site["id"]: site["rounds"] for site in evidence["sites"]}
    for site in sites:
        assert "all hold" in lab.run("client", "ledger", "--home", site, "--verify")
        spent, told = charged(lab.folder / site), outcomes(lab.folder / site)
        assert (spent["critic"] <= steps, spent["marginals"] <= 2) == (True, True)
        assert sum(told.values()) == sum(spent.values()), "what became of every charge is known"
        assert sum(spent.values()) <= rounds[site] <= sum(spent.values()) + 8, "no more than one a failure"
    assert "unused" not in lab.run("server", "status")
    critic = next(each for each in evidence["sums"] if each["name"] == "critic")
    assert critic["rounds_released"] >= steps - 10
    assert (lab.folder / "release/report.html").exists()


def test_steps_can_travel_as_flower_messages_where_a_second_port_is_impossible(lab: Any) -> None:
    lab.make(
        ("east", "west"),
        *("--mode", "local", "--steps", "1", "--option", 'start="marginals"'),
        *("--answer-time", "0.1", "--statistic-time", "0.5"),
    )
    server = lab.serve("server.log", "--transport", "messages")
    lab.wait_for_run()
    for site in ("east", "west"):
        lab.join(site)
    assert server.wait(timeout=240) == 0, lab.text("server.log")
    assert charged(lab.folder / "east") == {"marginals": 2, "critic": 1, "comparison": 2}
