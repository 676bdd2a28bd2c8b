"""A record that raises, is NaN or huge, or takes long, at every stage of a step: when bytes leave, and which."""

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.client.federation import (
    GRADIENT_S,
    STATISTIC_S,
    UNITS,
    WEIGHTS,
    Clock,
    Federation,
    Identities,
    Join,
    Opened,
    Plugin,
    join_at,
    opened,
    served,
)

from synthfed.client.channel import read_frame
from synthfed.client.data import Encoded, UnitData
from synthfed.client.train import clipped_sum, read_payload
from synthfed.plugins.api import Array, Payload, PrivatePart
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.secagg import messages, ring
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.sums import Kind, noise_shares

PLACE = 7
ATTEMPTS = 8
ANSWER_S = {"count": STATISTIC_S, "critic": GRADIENT_S}


def with_poison(value: float, copies: int = 1) -> UnitData:
    """Twenty records, and from the eighth place on the given one."""
    encoded = np.insert((np.arange(UNITS) / UNITS)[:, None], [PLACE] * copies, value, axis=0)
    return UnitData(encoded, np.arange(len(encoded), dtype=np.int64), np.ones(len(encoded), dtype=np.int64))


def kind_of(federation: Federation, name: str) -> Kind:
    kind = federation.policy.plan.kind(name)
    assert kind is not None
    return kind


def in_steps(federation: Federation, kind: Kind, batch: Encoded, tiny: PrivatePart) -> npt.NDArray[np.float64]:
    """Return a batch's clipped sum in grid steps, computed apart from the agent and not rounded."""
    payload = read_payload(kind, WEIGHTS if kind.sum.payload else b"")
    total = clipped_sum(tiny, kind, payload, batch)
    return np.asarray(total / kind.grid_step(noise_shares(federation.policy.study, 3)))


def sampled(federation: Federation, kind: Kind, answer: Opened) -> Encoded:
    return federation.a.data.draw(KeyStream(answer.seeds.sample), kind.sum.sample_rate, kind.slots)


def asked(federation: Federation, kind: str) -> Opened:
    """Return site a's answer, which is a sum and due at its fixed time."""
    start_s = federation.clock.now
    answer = opened(federation.a, "a", federation.round(kind))
    federation.aggregator.give_up()
    assert answer.reply.due_s == start_s + ANSWER_S[kind]
    return answer


@pytest.mark.parametrize("kind", ["count", "critic"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, 1e200])
def test_a_record_that_is_not_finite_or_overflows_changes_no_other_term_and_not_the_time(
    join: Join, tiny: PrivatePart, kind: str, value: float
) -> None:
    """The gradient's coin takes a record every second time: none of forty poisoned ones in 2**-40 of all runs."""
    federation = join(data=with_poison(value, 20))
    each = kind_of(federation, kind)
    met = 0
    for _ in range(2):
        answer = asked(federation, kind)
        batch = sampled(federation, each, answer)
        clean = batch[np.isfinite(batch[:, 0]) & (np.abs(batch[:, 0]) < 10)]
        met += len(batch) - len(clean)
        assert np.abs(answer.grid - in_steps(federation, each, clean, tiny)).max() <= 1
    assert met
    assert federation.a.ledger.unsettled() == ()


@pytest.mark.parametrize("value", [1e6, -1e6, 1e100])
def test_a_huge_record_adds_one_clipped_term_and_changes_no_other(join: Join, tiny: PrivatePart, value: float) -> None:
    federation = join(data=with_poison(value))
    kind = kind_of(federation, "count")
    answer = asked(federation, "count")
    clean = np.delete(federation.a.data.encoded, PLACE, axis=0)
    added = answer.grid - in_steps(federation, kind, clean, tiny)
    step = kind.grid_step(noise_shares(federation.policy.study, 3))
    assert np.linalg.norm(added) * step <= kind.sum.clip_norm + 3 * step
    assert added * step == pytest.approx([0.0, np.copysign(kind.sum.clip_norm, value)], abs=1e-4)


@pytest.mark.parametrize("kind", ["count", "critic"])
def test_a_record_that_takes_long_changes_no_term_and_not_the_time(join: Join, tiny: PrivatePart, kind: str) -> None:
    clock = Clock()

    def dawdle(batch: Array) -> None:
        clock.now += 0.9 * ANSWER_S[kind] if (batch == 0.625).any() else 0.0

    federation = join(data=with_poison(0.625), private=Plugin(tiny, dawdle), clock=clock)
    for _ in range(3):
        answer = asked(federation, kind)
        each = kind_of(federation, kind)
        expected = in_steps(federation, each, sampled(federation, each, answer), tiny)
        assert np.abs(answer.grid - expected).max() <= 1


class Breaks(torch.autograd.Function):
    """Passes a value on, and raises when its gradient comes back."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        raise ValueError("a record")


class Failing(Plugin):
    """The tiny plugin, failing at one stage."""

    def __init__(self, tiny: PrivatePart, stage: str) -> None:
        super().__init__(tiny)
        self.stage = stage

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:
        wrong: dict[str, Callable[[], Any]] = {
            "raises": lambda: np.stack([float(f"a record {row}") for row in batch]),
            "gives another shape": lambda: np.ones((len(batch) - 1, 2)),
            "gives text": lambda: np.array([["a", "record"]] * len(batch)),
            "gives nothing": lambda: None,
            "exits": lambda: sys.exit(f"a record {batch}"),
            "nests too deeply": lambda: self.statistic(name, batch, payload),
        }
        return np.asarray(wrong.get(self.stage, lambda: self.tiny.statistic(name, batch, payload))())

    def module(self, name: str) -> torch.nn.Module:
        if self.stage == "no module":
            raise OSError("a record")
        return torch.nn.Linear(3, 3) if self.stage == "another module" else self.tiny.module(name)

    def loss(self, name: str, module: torch.nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        losses = self.tiny.loss(name, module, batch, coins)
        if self.stage == "raises in the loss":
            raise ValueError(f"a record {batch}")
        if self.stage == "raises in the backward pass":
            broken: torch.Tensor = Breaks.apply(losses)  # type: ignore[no-untyped-call]
            return broken
        if self.stage == "forgets the graph":
            return losses.detach()
        return losses[1:] if self.stage == "gives a loss too few" else losses


STAGES = [
    *(("count", stage) for stage in ("raises", "gives another shape", "gives text", "gives nothing")),
    *(("count", stage) for stage in ("nests too deeply", "exits")),
    *(("critic", stage) for stage in ("no module", "another module", "raises in the loss", "forgets the graph")),
    *(("critic", stage) for stage in ("raises in the backward pass", "gives a loss too few")),
]


@pytest.mark.parametrize(("kind", "stage"), STAGES, ids=[f"{kind}: {stage}" for kind, stage in STAGES])
def test_a_failure_at_any_stage_is_answered_by_noise_alone_at_the_fixed_time_and_so_is_the_next_step(
    join: Join, tiny: PrivatePart, caplog: pytest.LogCaptureFixture, kind: str, stage: str
) -> None:
    federation = join(private=Failing(tiny, stage))
    answer = asked(federation, kind)
    assert not answer.grid.any()
    assert answer.noise.any()
    assert "a record" not in caplog.text
    assert federation.a.ledger.failures() == 1
    assert not asked(federation, kind).grid.any()


def test_one_sites_failure_leaves_the_terms_of_the_other_sites_in_the_sum(join: Join, tiny: PrivatePart) -> None:
    federation = join(private=Failing(tiny, "raises"))
    frame = federation.round("count")
    kind = kind_of(federation, "count")
    noise = np.zeros(2, dtype=np.int64)
    for site, agent in federation.agents.items():
        answer = opened(agent, site, frame)
        masked = messages.decode(answer.reply.frame)[0]
        assert isinstance(masked, messages.Masked)
        federation.aggregator.add_masked(site, masked)
        noise += answer.noise
    expected = 2 * in_steps(federation, kind, federation.a.data.encoded, tiny)
    assert np.abs(federation.aggregator.total() - noise - expected).max() <= 2


def time_of_answer(federation: Federation, path: Path) -> tuple[float, bool]:
    """Return how long site a's answer took through a socket, and whether it is a sum."""
    with served(federation.a, path) as connection:
        frame = federation.round("critic")
        start_s = time.monotonic()
        connection.sendall(frame)
        reply = read_frame(connection)
        took_s = time.monotonic() - start_s
    return took_s, isinstance(messages.decode(reply)[0], messages.Masked)


@pytest.mark.parametrize("case", ["clean", "NaN", "huge", "slow", "raises"])
def test_bytes_leave_the_socket_at_the_fixed_time_whatever_the_record_does(
    tmp_path: Path, policy: Policy, identities: Identities, tiny: PrivatePart, case: str
) -> None:
    """On the real clock: never before the time; after it by less than another time.

    A machine that is busy may be late itself, which one of several answers is not; a record would delay all.
    """

    def dawdle(batch: Array) -> None:
        time.sleep(0.05)

    cases: dict[str, tuple[UnitData, PrivatePart]] = {
        "clean": (with_poison(0.5), tiny),
        "NaN": (with_poison(np.nan), tiny),
        "huge": (with_poison(1e300), tiny),
        "slow": (with_poison(0.5), Plugin(tiny, dawdle)),
        "raises": (with_poison(0.5), Failing(tiny, "raises in the loss")),
    }
    data, private = cases[case]
    for attempt in range(ATTEMPTS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        with ExitStack() as stack:
            join = join_at(stack, folder, policy, identities, tiny)
            federation = join(data=data, private=private, clock=time.monotonic)
            in_steps(federation, kind_of(federation, "critic"), np.ones((1, 1)), tiny)  # a process's first is slow
            took_s, is_sum = time_of_answer(federation, tmp_path / "agent.sock")
        assert took_s >= GRADIENT_S
        if is_sum and took_s < 2 * GRADIENT_S:
            return
    pytest.fail(f"all {ATTEMPTS} answers were late")


def test_the_grid_of_an_answer_is_what_the_oracle_sums_up(join: Join, tiny: PrivatePart) -> None:
    """The measure itself: without poison the answers open to the plain sums, and words without opening do not."""
    federation = join()
    kind = kind_of(federation, "count")
    answer = asked(federation, "count")
    expected = in_steps(federation, kind, federation.a.data.encoded, tiny)
    assert np.abs(answer.grid - expected).max() <= 1
    masked = messages.decode(answer.reply.frame)[0]
    assert isinstance(masked, messages.Masked)
    assert np.abs(ring.centred(ring.from_bytes(masked.words, 2, 32, peer="a")) - expected).max() > 1
