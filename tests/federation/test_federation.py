"""A whole study over memory: what is released, how noisy it is, who is charged, and how a run goes on."""

import itertools
import json
import math
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthfed.client.entries import Charge
from synthfed.protocols.errors import ConfigError, QuorumLost
from synthfed.protocols.privacy.accountant import SampledGaussian
from synthfed.protocols.secagg import messages
from synthfed.server import training
from synthfed.server.link import MemoryLink
from synthfed.server.release import open_release
from synthfed.server.rounds import Session
from synthfed.server.simulate import simulate
from synthfed.server.store import Run, Status

Federate = Callable[..., Any]
ALL_DONE = "every planned round is done"
ROUNDS_OF_GAN = {"marginals": 2, "critic": 6, "comparison": 2}
MODES = ("distributed", "local")


@pytest.fixture
def at_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run report at every round, so that its watcher can stop it at any."""
    monkeypatch.setattr(training, "_REPORT_S", -1.0)


class Stopped(BaseException):
    """What a watcher raises, as an operator's interrupt would be."""


def stop_after(step: int) -> Callable[[Status], None]:
    """Return a watcher that interrupts a run while its sites compute that round."""

    def watch(status: Status) -> None:
        if status.phase == "training" and status.step == step:
            raise Stopped

    return watch


def spend(federation: Any, site: str, noise_multiplier: float, *, is_settled: bool = True) -> None:
    """Let a site's records have paid for another study before; unsettled, the agent died in that step."""
    ledger = federation.ledger(site)
    event = SampledGaussian(1.0, noise_multiplier, 1)
    sequence = ledger.charge(Charge(bytes(32), "another study", "mean", bytes(32), 1, bytes(32), event))
    if is_settled:
        ledger.settle(sequence, "sent")


def is_spent_out(reason: str, sites: str) -> bool:
    """Return whether a study ended because of these sites' budgets."""
    return f" of {sites} " in reason and reason.endswith("used up")


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("mode", MODES)
def test_a_gan_trains_over_memory_until_every_planned_round_is_done(federate: Federate, mode: str) -> None:
    federation = federate(gan=True, mode=mode, epsilon=5.0)
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert outcome.tally.attempts == outcome.tally.released == ROUNDS_OF_GAN
    assert len(outcome.tally.history) == 10
    assert outcome.tally.seconds > 0
    assert Run(federation.folder / "run").status().phase == "trained"
    assert np.isfinite(outcome.trainer.sample(50, 0, {})).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_released_sum_is_the_plain_sum_of_the_contributions_up_to_its_noise(federate: Federate, mode: str) -> None:
    # Epsilon 100 gives noise below 1 on sums of about 250; 6 standard deviations on 36 normal
    # values: a false alarm in 10**7 runs.
    federation = federate(mode=mode)
    plain = sum(federation.plain.values())
    outcome = federation.train()
    assert len(outcome.trainer.answers) == 6
    for answer in outcome.trainer.answers:
        assert answer.noise_std < 1 < 30 < plain.min()
        assert answer.sites == 4
        assert np.abs(answer.total - plain).max() < 6 * answer.noise_std
        assert (answer.total != plain).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("away", [(), ("s2",)])
def test_the_noise_of_released_sums_has_the_stated_standard_deviation(
    federate: Federate, mode: str, away: tuple[str, ...]
) -> None:
    # 12,000 independent normal values: their mean square has relative std sqrt(2/12000) = 0.0129.
    # A bound of 5 of these (and of the mean's std): a false alarm in 10**6 runs. One site's share too
    # few or too many would change the mean square by at least a fourth.
    federation = federate(mode=mode, epsilon=10.0, rounds=6, dim=2000)
    for site in away:
        federation.link.away(site, range(1, 100))
    plain = sum(sums for site, sums in federation.plain.items() if site not in away)
    answers = federation.train().trainer.answers
    noise = np.concatenate([(a.total - np.pad(plain, (0, 1994))) / a.noise_std for a in answers])
    assert {a.sites for a in answers} == {4 - len(away)}
    assert len(noise) == 12_000
    assert abs(np.mean(noise**2) - 1) < 5 * (2 / 12_000) ** 0.5
    assert abs(np.mean(noise)) < 5 / 12_000**0.5
    # And it looks normal: 12 values are expected beyond 3.29; above 36 once in 10**8 runs.
    assert np.sum(np.abs(noise) > 3.29) < 36


@pytest.mark.parametrize("mode", MODES)
def test_the_stated_noise_is_that_of_the_plan_for_the_cohort_that_answered(federate: Federate, mode: str) -> None:
    federation = federate(mode=mode)
    kind = federation.pinned.policy.plan.kinds[0]
    federation.link.away("s3", (2,))
    stds = [answer.noise_std for answer in federation.train().trainer.answers]
    expected = {"distributed": (4 / 3, 3 / 2), "local": (4.0, 3.0)}[mode]
    assert stds[0] == pytest.approx(kind.noise_multiplier * expected[0] ** 0.5)
    assert stds[1] == pytest.approx(kind.noise_multiplier * expected[1] ** 0.5)


def test_a_site_that_misses_a_round_costs_the_others_one_and_returns_later(federate: Federate) -> None:
    federation = federate(rounds=8)
    federation.link.drop_request("s1", (2,))
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert outcome.tally.attempts == {"mean": 8}
    assert outcome.tally.released == {"mean": 7}
    assert [answer.sites for answer in outcome.trainer.answers] == [4, 3, 4, 4, 4, 4, 4]
    assert federation.charges("s0") == federation.charges("s2") == federation.charges("s3") == {"mean": 8}
    assert federation.charges("s1") == {"mean": 6}  # neither the round it never heard of nor the one it rested
    assert outcome.tally.charged["s1"] == {"mean": 7}  # asked for, as far as the coordinator knows


def test_a_site_whose_reply_is_lost_was_charged_all_the_same(federate: Federate) -> None:
    federation = federate(rounds=5)
    federation.link.drop_reply("s1", (2,))
    outcome = federation.train()
    assert outcome.tally.released == {"mean": 4}
    assert federation.charges("s1") == {"mean": 4}
    assert outcome.tally.charged["s1"] == {"mean": 4}


def test_a_site_that_misses_again_rests_longer_every_time(federate: Federate) -> None:
    federation = federate(rounds=16)
    federation.link.drop_request("s1", range(1, 100))
    outcome = federation.train()
    asked = [number for number in range(1, 17) if "s1" in _cohort(federation, number)]
    assert asked == [1, 3, 6, 11]
    assert outcome.tally.released == {"mean": 12}


def test_a_new_session_does_not_forget_how_often_a_site_was_missing(federate: Federate) -> None:
    federation = federate(rounds=16)
    federation.link.drop_request("s1", range(1, 100))

    def restart(message: Any) -> Any:
        federation.restart("s2")
        return message

    federation.link.rewrite_request("s2", (5,), restart)  # which ends the session and s1's rest in it
    outcome = federation.train()
    asked = [number for number in range(1, 17) if "s1" in _cohort(federation, number)]
    assert asked == [1, 3, 6, 11]
    assert outcome.tally.released == {"mean": 11}


def _cohort(federation: Any, number: int) -> tuple[str, ...]:
    message, _ = messages.decode(federation.link.requests[number]["s0"])
    assert isinstance(message, messages.Round)
    return message.cohort


def test_a_site_that_disconnects_for_good_is_done_without(federate: Federate) -> None:
    federation = federate()
    federation.link.away("s3", range(3, 100))
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert [answer.sites for answer in outcome.trainer.answers] == [4, 4, 3, 3, 3, 3]
    assert federation.charges("s3") == {"mean": 2}


def test_a_site_whose_agent_restarts_gets_a_new_session(federate: Federate) -> None:
    federation = federate(rounds=8)
    restarted: list[int] = []

    def restart(message: Any) -> Any:
        federation.restart("s2")
        restarted.append(message.counter)
        return message

    federation.link.rewrite_request("s2", (3,), restart)
    outcome = federation.train()
    assert len(restarted) == 1
    assert outcome.reason == ALL_DONE
    assert outcome.tally.released == {"mean": 7}
    assert [answer.sites for answer in outcome.trainer.answers] == [4] * 7
    assert federation.charges("s2") == {"mean": 7}


def test_below_the_quorum_the_run_pauses_after_the_waiting_time_and_its_checkpoint_stands(federate: Federate) -> None:
    federation = federate()
    for site in ("s2", "s3"):
        federation.link.away(site, range(3, 100))
    with pytest.raises(QuorumLost):
        federation.train(quorum_s=0.3)
    state, tally = federation.checkpoint()
    assert tally.attempts == tally.released == {"mean": 2}
    assert federation.charges("s0") == {"mean": 2}
    federation.reconnect()
    outcome = federation.train(resume=True)
    assert outcome.reason == ALL_DONE
    assert outcome.tally.attempts == {"mean": 6}
    assert np.all(outcome.trainer.total > state["total"])


def test_a_quorum_that_never_comes_is_one_error_and_no_site_is_charged(federate: Federate) -> None:
    federation = federate(sites=3)
    federation.link.away("s0", range(1, 100))
    with pytest.raises(QuorumLost, match="2 of 3 needed sites"):
        federation.train()
    assert [federation.charges(site) for site in ("s1", "s2")] == [{}, {}]


@pytest.mark.parametrize("mode", MODES)
def test_a_site_out_of_budget_ends_the_study_cleanly_where_it_is_needed(federate: Federate, mode: str) -> None:
    # Local, three sites, a quorum of two: another site must be away for the spent one to be needed.
    federation = federate(sites=3, quorum=3 if mode == "distributed" else 2, mode=mode, epsilon=5.0)
    spend(federation, "s1", 0.6)
    if mode == "local":
        federation.link.away("s2", range(1, 100))
    outcome = federation.train()
    assert is_spent_out(outcome.reason, "s1")
    assert outcome.tally.attempts == {"mean": outcome.tally.released["mean"] + 1}
    assert federation.charges("s1") == ({"mean": n} if (n := outcome.tally.released["mean"]) else {})
    assert federation.charges("s0") == {"mean": outcome.tally.attempts["mean"]}
    assert Run(federation.folder / "run").status().message == outcome.reason


def test_a_site_that_can_pay_a_part_gives_that_part_and_the_release_has_it(federate: Federate) -> None:
    federation = federate(sites=3, epsilon=5.0)
    spend(federation, "s1", 2.0)
    outcome = federation.train()
    assert is_spent_out(outcome.reason, "s1")
    assert 1 <= len(outcome.trainer.answers) < 5
    assert federation.charges("s1") == {"mean": len(outcome.trainer.answers)}
    assert federation.checkpoint()[1].released == {"mean": len(outcome.trainer.answers)}


def test_others_go_on_without_a_site_that_is_out_of_budget(federate: Federate) -> None:
    federation = federate(epsilon=5.0)
    spend(federation, "s1", 0.6)
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert [answer.sites for answer in outcome.trainer.answers] == [3] * 5
    assert federation.charges("s1") == {}


@pytest.mark.parametrize("gan", [False, True])
def test_the_charges_of_every_ledger_are_the_rounds_its_site_was_asked_for(federate: Federate, gan: bool) -> None:
    federation = federate(gan=gan, epsilon=5.0)
    federation.link.drop_reply("s0", (2,))
    federation.link.away("s3", (4, 5))
    outcome = federation.train()
    for site in federation.sites:
        asked: dict[str, int] = {}
        for frames in (federation.link.requests[number] for number in range(1, federation.link.round + 1)):
            if site in frames:
                name = _kind(frames[site])
                asked[name] = asked.get(name, 0) + 1
        assert federation.charges(site) == asked == outcome.tally.charged[site]


def _kind(frame: bytes) -> str:
    message, _ = messages.decode(frame)
    assert isinstance(message, messages.Round)
    return message.kind


@pytest.mark.parametrize("step", [1, 2, 4, 8, 9])
def test_a_stopped_run_goes_on_exactly_where_it_was(federate: Federate, at_every_round: None, step: int) -> None:
    federation = federate(gan=True, epsilon=5.0)
    trainer = federation.pinned.model.trainer(7)
    with pytest.raises(Stopped):
        federation.train(trainer=trainer, watch=stop_after(step))
    federation.reconnect()
    state, tally = federation.checkpoint()
    assert same(state, trainer.state())
    assert sum(tally.attempts.values()) == step
    assert sum(tally.released.values()) == step - 1  # the interrupted round is charged and lost
    successor = federation.pinned.model.trainer(99)
    federation.training(Run(federation.folder / "run"), successor)
    assert same(successor.state(), trainer.state())
    outcome = federation.train(resume=True, trainer=successor)
    assert outcome.reason == ALL_DONE
    assert outcome.tally.attempts == ROUNDS_OF_GAN
    assert outcome.tally.started == tally.started
    assert sum(outcome.tally.released.values()) == 9
    for site in federation.sites:
        assert federation.charges(site) == ROUNDS_OF_GAN == outcome.tally.charged[site]


def test_a_crash_costs_the_round_it_fell_into_and_no_second_charge(federate: Federate, at_every_round: None) -> None:
    federation = federate(gan=True, epsilon=5.0)
    file = federation.folder / "run" / "checkpoint.safetensors"
    left: list[bytes] = []

    def crash(status: Status) -> None:
        if status.phase == "training" and status.step == 5:
            left.append(file.read_bytes())  # what a killed process would leave
            raise Stopped

    with pytest.raises(Stopped):
        federation.train(watch=crash)
    file.write_bytes(left[0])
    federation.reconnect()
    outcome = federation.train(resume=True)
    assert outcome.reason == ALL_DONE
    assert sum(outcome.tally.released.values()) == 9
    assert all(federation.charges(site) == ROUNDS_OF_GAN for site in federation.sites)


def test_no_ledger_ever_holds_more_rounds_than_the_cap_whatever_restarts(
    federate: Federate, at_every_round: None
) -> None:
    federation = federate(rounds=6)
    for step in (2, 3, 5):
        with pytest.raises(Stopped):
            federation.train(watch=stop_after(step), resume=step > 2)
        federation.reconnect()
        federation.restart("s1")
    outcome = federation.train(resume=True)
    assert outcome.tally.attempts == {"mean": 6}
    assert outcome.tally.released == {"mean": 3}
    assert {site: federation.charges(site) for site in federation.sites} == {s: {"mean": 6} for s in federation.sites}


def test_a_coordinator_that_forgets_its_charges_is_stopped_by_the_sites_ledgers(federate: Federate) -> None:
    federation = federate(rounds=4)
    federation.train()
    shutil.rmtree(federation.folder / "run")
    federation.reconnect()
    outcome = federation.train()
    assert is_spent_out(outcome.reason, "s0, s1, s2, s3")
    assert outcome.trainer.answers == []
    assert {site: federation.charges(site) for site in federation.sites} == {s: {"mean": 4} for s in federation.sites}


def test_a_coordinator_that_goes_back_to_an_old_checkpoint_gets_no_round_more(
    federate: Federate, at_every_round: None
) -> None:
    federation = federate(rounds=5)
    with pytest.raises(Stopped):
        federation.train(watch=stop_after(3))
    file = federation.folder / "run" / "checkpoint.safetensors"
    old = file.read_bytes()
    federation.reconnect()
    federation.train(resume=True)
    file.write_bytes(old)
    federation.reconnect()
    outcome = federation.train(resume=True)
    assert "used up" in outcome.reason
    assert all(federation.charges(site) == {"mean": 5} for site in federation.sites)


def test_an_old_session_ends_after_its_rounds_and_the_next_goes_on(
    federate: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SESSION_ROUNDS", 2)
    federation = federate(rounds=5)
    phases: list[str] = []
    outcome = federation.train(watch=lambda status: phases.append(status.phase))
    assert outcome.reason == ALL_DONE
    assert outcome.tally.released == {"mean": 5}
    assert phases.count("handshake") == 3


def test_the_run_of_another_study_cannot_be_gone_on_with(federate: Federate) -> None:
    first, second = federate(name="first", rounds=4), federate(name="second", rounds=4)
    first.train()
    shutil.copytree(first.folder / "run", second.folder / "run")
    with pytest.raises(ConfigError, match="holds a run of other terms"):
        second.train(resume=True)
    shutil.copy(second.folder / "s0.csv", second.folder / "run" / "unrelated.csv")
    with pytest.raises(ConfigError, match="already holds a run"):
        second.train()
    assert second.charges("s0") == {}


def test_a_checkpoint_of_another_study_is_refused_before_any_site_is_asked(federate: Federate) -> None:
    first, second = federate(name="first", rounds=4), federate(name="second", rounds=4)
    first.train()
    Run.begin(second.folder / "run", "", {}, resume=False)
    shutil.copy(first.folder / "run" / "checkpoint.safetensors", second.folder / "run")
    with pytest.raises(ConfigError, match="was written for other terms"):
        second.training(Run(second.folder / "run"), second.pinned.model.trainer(0))
    assert second.link.round == 0


def test_a_truncated_checkpoint_is_refused_and_a_leftover_part_does_no_harm(federate: Federate) -> None:
    federation = federate(rounds=4)
    federation.train()
    folder = federation.folder / "run"
    for name in ("checkpoint.safetensors", "study.toml", "settings.json"):
        (folder / f".{name}.part").write_bytes(b"interrupted")
    (folder / ".status.1.part").write_text("{")
    assert federation.checkpoint()[1].attempts == {"mean": 4}
    federation.reconnect()
    assert federation.train(resume=True).reason == ALL_DONE
    file = folder / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ConfigError, match="restore it from a backup") as refused:
        federation.train(resume=True)
    assert "\n" not in str(refused.value)


def test_a_simulation_with_one_seed_starts_alike_and_gets_other_noise(federate: Federate, tmp_path: Path) -> None:
    federation = federate(gan=True, epsilon=5.0)
    tables = {site: federation.folder / f"{site}.csv" for site in federation.sites}
    assert same(federation.pinned.model.trainer(3).state(), federation.pinned.model.trainer(3).state())
    assert not same(federation.pinned.model.trainer(3).state(), federation.pinned.model.trainer(4).state())
    seen: list[list[dict[str, float]]] = []
    for out in ("one", "two"):
        numbers: list[dict[str, float]] = []

        def note(status: Status, numbers: list[dict[str, float]] = numbers) -> None:
            numbers.append(status.numbers)

        study = simulate(federation.study, tables, tmp_path / out, rows=20, seed=3, watch=note)
        assert study.hash != federation.study.hash  # fresh identities
        seen.append([each for each in numbers if each])
    assert seen[0][-1]["units_per_site"] != seen[1][-1]["units_per_site"]  # an estimate from the released sums
    states = [open_release(tmp_path / out).trainer.state() for out in ("one", "two")]
    assert not np.array_equal(states[0]["critic"], states[1]["critic"])


def test_two_studies_over_one_ledger_add_up(federate: Federate) -> None:
    federation = federate(rounds=4, epsilon=5.0)
    federation.train()
    assert federation.ledger("s0").length == 4
    spend(federation, "s0", 10.0)
    assert federation.ledger("s0").length == 5
    assert federation.charges("s0") == {"mean": 4}


def test_a_refusal_over_budget_is_told_apart_from_others(federate: Federate) -> None:
    federation = federate(epsilon=5.0)
    spend(federation, "s1", 0.6)
    session = Session(federation.pinned.policy, federation.link, lambda: secrets.token_bytes(32), itertools.count(1))
    kind = federation.pinned.policy.plan.kinds[0]
    attempt = session.attempt(session.cohort, kind, np.ones(1, dtype="<f4").tobytes(), lambda: None)
    assert attempt.total is None
    assert attempt.cohort == ("s0", "s1", "s2", "s3")
    assert session.refused == {"s1": messages.Code.BUDGET}
    assert session.cohort == ("s0", "s2", "s3")


def test_others_go_on_without_a_site_whose_agent_died_in_a_step_and_was_not_cleared(federate: Federate) -> None:
    federation = federate()
    spend(federation, "s1", 50.0, is_settled=False)
    assert federation.train(quorum_s=1.5).reason == ALL_DONE


def test_others_go_on_without_a_site_whose_ledger_was_rolled_back(
    federate: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SESSION_ROUNDS", 2)
    federation = federate(rounds=8)
    for site in ("s0", "s2"):
        federation.link.away(site, range(5, 100))
    with pytest.raises(QuorumLost, match="2 of 3 needed sites"):
        federation.train()
    federation.roll_back("s1")
    federation.reconnect()
    assert federation.train(resume=True, quorum_s=1.5).reason == ALL_DONE


def test_a_site_that_misses_a_round_does_not_end_a_study_because_another_is_out_of_budget(federate: Federate) -> None:
    federation = federate(sites=5, quorum=4, epsilon=5.0, rounds=8)
    spend(federation, "s1", 0.6)
    federation.link.drop_request("s2", (3,))
    assert federation.train(quorum_s=3.0).reason == ALL_DONE


def test_a_site_that_leaves_just_before_a_round_is_sent_is_waited_for(
    federate: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = federate(sites=3)
    link, here = federation.link, federation.link.connected
    attempt, is_gone = Session.attempt, iter([False, True])

    def leave(*arguments: Any) -> Any:
        gone = frozenset({"s2"}) if next(is_gone, False) else frozenset()
        link.connected = lambda: here() - gone
        try:
            return attempt(*arguments)
        finally:
            link.connected = here

    monkeypatch.setattr(Session, "attempt", leave)
    assert federation.train(quorum_s=5.0).reason == ALL_DONE


def test_a_simulation_into_a_taken_place_is_refused_before_it_trains(federate: Federate, tmp_path: Path) -> None:
    federation = federate(gan=True, epsilon=5.0)
    tables = {site: federation.folder / f"{site}.csv" for site in federation.sites}
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    seen: list[Status] = []
    with pytest.raises(ConfigError, match="taken"):
        simulate(federation.study, tables, tmp_path / "taken", rows=20, seed=3, watch=seen.append)
    assert seen == []


@pytest.mark.parametrize("name", ["A", "x/y", "../escaped"])
def test_a_simulated_site_with_a_wrong_name_is_a_configuration_error(
    federate: Federate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    federation = federate(gan=True, epsilon=5.0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # one of the names leads out of it
    tables = dict.fromkeys((name, "s1", "s2"), federation.folder / "s0.csv")
    with pytest.raises(ConfigError):
        simulate(federation.study, tables, tmp_path / "out", rows=20, seed=3, watch=lambda _: None)


def test_a_site_in_memory_is_never_asked_twice_at_once() -> None:
    inside, most = 0, 0

    def slow(frame: bytes) -> bytes:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.2)
        inside -= 1
        return frame

    link = MemoryLink({"a": slow}, threads=2)
    link.post({"a": b"1"}, 1)
    assert not list(link.collect(0.02))
    link.post({"a": b"2"}, 2)
    assert dict(link.collect(2.0)) == {"a": b"2"}
    link.close()
    assert most == 1


def test_replies_over_memory_come_one_by_one_and_a_slow_site_holds_up_only_its_own() -> None:
    go_on = threading.Event()

    def slow(frame: bytes) -> bytes:
        go_on.wait(10.0)
        return frame

    link = MemoryLink({"a": slow, "b": lambda frame: frame}, threads=2)
    link.post({"a": b"1", "b": b"2"}, 1)
    replies = link.collect(10.0)
    assert next(replies) == ("b", b"2")
    go_on.set()
    assert list(replies) == [("a", b"1")]
    assert not list(link.collect(10.0))  # each is handed over once, and kept nowhere
    assert (link._waiting, link._last) == ({}, {})
    link.close()


def test_what_is_done_with_one_reply_costs_no_other_that_is_there_by_then() -> None:
    link = MemoryLink({site: lambda frame: frame for site in "abc"}, threads=2)
    link.post(dict.fromkeys("abc", b"1"), 1)
    seen = []
    for site, _ in link.collect(0.05):
        time.sleep(0.1)
        seen.append(site)
    link.close()
    assert sorted(seen) == ["a", "b", "c"]


def test_the_error_names_the_sites_whose_logs_say_who_was_rolled_back(
    federate: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SESSION_ROUNDS", 2)
    federation = federate(sites=3)
    federation.link.away("s0", range(4, 100))
    with pytest.raises(QuorumLost):
        federation.train()
    federation.roll_back("s1")
    federation.reconnect()
    with pytest.raises(QuorumLost, match=r"1 of 3 needed sites .* logs of s0, s2"):
        federation.train(resume=True)
    assert federation.charges("s0") == {"mean": 3}


def test_a_journal_that_shrinks_during_a_run_is_the_first_suspect(
    federate: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SESSION_ROUNDS", 2)
    federation = federate(sites=6, quorum=4, rounds=5)
    openings: list[tuple[str, ...]] = []
    post = federation.link.post

    def count(frames: dict[str, bytes], sequence: int) -> None:
        if isinstance(messages.decode(next(iter(frames.values())))[0], messages.Open):
            openings.append(tuple(sorted(frames)))
        post(frames, sequence)

    federation.link.post = count

    def roll_back(message: Any) -> Any:
        for site in ("s1", "s4"):
            federation.roll_back(site)
        return message

    federation.link.rewrite_reply("s0", (4,), roll_back)
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert [answer.sites for answer in outcome.trainer.answers] == [6, 6, 6, 6, 4]
    everyone, trusted = tuple(sorted(federation.sites)), ("s0", "s2", "s3", "s5")
    assert openings == [everyone, everyone, everyone, trusted]


def test_a_site_that_is_out_of_budget_is_not_asked_again_in_later_sessions(
    federate: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SESSION_ROUNDS", 2)
    federation = federate(epsilon=5.0)
    spend(federation, "s1", 0.6)
    outcome = federation.train()
    assert outcome.reason == ALL_DONE
    assert outcome.tally.charged["s1"] == {"mean": 1}
    assert outcome.tally.released == {"mean": 5}


def test_a_simulation_says_that_it_is_one(federate: Federate, tmp_path: Path) -> None:
    federation = federate(gan=True, epsilon=5.0)
    tables = {site: federation.folder / f"{site}.csv" for site in federation.sites}
    simulate(federation.study, tables, tmp_path / "out", rows=20, seed=3, watch=lambda _: None)
    told = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert (told["setting"], told["key_agreement"], told["sigma_floor"]) == ("simulation", "hybrid", None)
    honest = len(told["sites"]) - told["tolerated"]
    for each in told["sums"]:
        assert each["own_noise"] == pytest.approx(each["noise_multiplier"] / math.sqrt(honest))
    assert "Simulated, not federated" in (tmp_path / "out" / "report.html").read_text()
