"""When answers leave, on the real clock and a real socket, says nothing of what the records are."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]
from tests.client.conftest import SUMS
from tests.client.federation import Federation, Identities, Plugin, join_at

from synthfed.client.agent import Agent
from synthfed.client.channel import Reply, connect, read_frame, serve
from synthfed.client.data import UnitData
from synthfed.plugins.api import Array, Payload, PrivatePart
from synthfed.protocols.privacy.plan import Plan
from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.messages import Code, Refusal
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Kind

ANSWER_S = 0.025
STEPS = 1000
FALSE_ALARM = 1e-5
WORK_S = 0.004


class Uneven(Plugin):
    """The tiny plugin, whose work on a batch takes the longer the more there is in it: up to four milliseconds."""

    def __init__(self, tiny: PrivatePart) -> None:
        super().__init__(tiny)
        self.took_s: list[float] = []

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:
        start_s = time.perf_counter()
        time.sleep(WORK_S * np.count_nonzero(batch) / len(batch))
        rows = self.tiny.statistic(name, batch, payload)
        self.took_s.append(time.perf_counter() - start_s)
        return rows


def units(records: Array, per_unit: int = 1) -> UnitData:
    counts = np.full(len(records) // per_unit, per_unit, dtype=np.int64)
    return UnitData(records, np.arange(len(counts), dtype=np.int64) * per_unit, counts)


CASES: dict[str, UnitData] = {
    "forty records": units(np.full((40, 1), 0.5)),
    "two records": units(np.full((2, 1), 0.5)),
    "an empty batch": units(np.empty((0, 1))),
    "units of fifty records each": units(np.full((2000, 1), 0.5), 50),
    "records that are not finite": units(np.full((40, 1), np.nan)),
}


class Switching:
    """One agent, whose records are exchanged from step to step: same machine, ledger, socket and thread."""

    def __init__(self, agent: Agent) -> None:
        self.agents = {name: replace(agent, data=data) for name, data in CASES.items()}
        self.case = ""

    def answer(self, frame: bytes) -> Reply | None:
        return self.agents[self.case].answer(frame)

    def expire(self, now_s: float) -> None:
        next(iter(self.agents.values())).expire(now_s)  # they share one machine


@contextmanager
def served(agent: Switching, path: Path) -> Iterator[socket.socket]:
    done = threading.Event()
    server = threading.Thread(target=serve, args=(agent, path, done.is_set, time.monotonic))
    server.start()
    while not path.is_socket():
        time.sleep(0.005)
    try:
        with connect(path) as connection:
            yield connection
            done.set()
    finally:
        done.set()
        server.join()


@pytest.fixture
def patient(study: Study) -> Policy:
    """Terms with a short answer time, and a sum that may be asked for often."""
    terms = study.model_dump(mode="json")
    terms["privacy"]["statistic_time_s"] = ANSWER_S
    kind = Kind(replace(SUMS[0], rounds=2 * STEPS), 100.0, 64, 32)
    return Policy(Study.model_validate(terms), Plan((kind,), 1.0, 1.0, ((1, 1.0),)), b"code")


def test_response_times_have_one_law_whatever_the_size_of_the_batch_its_records_and_their_number_per_unit(
    tmp_path: Path, patient: Policy, identities: Identities, tiny: PrivatePart
) -> None:
    """A thousand steps, each with records chosen by chance; every kind of records against the full batch.

    Four Kolmogorov-Smirnov tests at 1e-5 of times that chance has dealt out: false alarm 4e-5, however the
    machine's load goes up and down. The work itself does differ, which the same test sees at once.
    """
    chance, plugin = random.Random(5), Uneven(tiny)
    times: dict[str, list[float]] = {case: [] for case in CASES}
    worked: dict[str, list[float]] = {case: [] for case in CASES}
    overruns = 0
    with ExitStack() as stack:
        join = join_at(stack, tmp_path, patient, identities, tiny)
        federation: Federation = join(private=plugin, clock=time.monotonic)
        agent = Switching(federation.a)
        with served(agent, tmp_path / "agent.sock") as connection:
            for step in range(STEPS + 5):
                if step == STEPS // 2:  # all of them are more rounds than a site allows one session
                    federation.shake_hands(b"m" * 32)
                agent.case = chance.choice(sorted(CASES))
                frame = federation.round("count")
                federation.aggregator.give_up()
                start_s = time.monotonic()
                connection.sendall(frame)
                reply = read_frame(connection)
                took_s = time.monotonic() - start_s
                answer = messages.decode(reply)[0]
                assert isinstance(answer, messages.Masked) or answer == Refusal(Code.ABANDONED)
                assert took_s >= ANSWER_S
                if answer == Refusal(Code.ABANDONED):
                    overruns += 1
                    federation.a.ledger.clear()
                if step >= 5:  # the first ones warm up the process
                    times[agent.case].append(took_s)
                    worked[agent.case].append(plugin.took_s[-1])
    full = "forty records"
    assert overruns <= STEPS / 20
    assert min(map(len, times.values())) > STEPS / 10
    for case in CASES.keys() - {full}:
        assert stats.ks_2samp(times[full], times[case]).pvalue > FALSE_ALARM, case
    assert stats.ks_2samp(worked[full], worked["an empty batch"]).pvalue < FALSE_ALARM**3
