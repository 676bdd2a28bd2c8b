"""The study's loop: ask the trainer, ask the sites, hand back the released sum, remember.

Never decides about privacy: the sites do, and a refusal ends the study with what it has.
"""

import datetime
import functools
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Answer, Ask, Payload, Trainer
from synthfed.protocols.errors import PluginError, QuorumLost
from synthfed.protocols.privacy.accountant import SampledGaussian, epsilon
from synthfed.protocols.privacy.plan import charge
from synthfed.protocols.secagg.messages import Code
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.sums import Kind

from .link import Link
from .rounds import Memory, Session
from .store import Run, Status, Tally

State = Mapping[str, npt.NDArray[Any]]

_LOG: Final = logging.getLogger(__name__)
SESSION_ROUNDS: Final = 500
SESSION_S: Final = 20 * 60.0
_REPORT_S: Final = 1.0
_WELCOMES: Final = 5  # new sessions opened for one site's sake; one that never fits in would cost the others time


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long to wait for sites: for all of the roster at first, then for a quorum to come back."""

    all_s: float = 60.0
    quorum_s: float = 300.0


class Training:
    """One study's training over one link, from the last checkpoint to the end."""

    def __init__(
        self, policy: Policy, trainer: Trainer, link: Link, run: Run, fresh: Callable[[], bytes], waiting: Waiting
    ) -> None:
        """Restore the last checkpoint, if there is one.

        Args:
            policy: what everyone has pinned.
            trainer: the model's public part.
            link: the transport.
            run: the folder for checkpoints and progress.
            fresh: 32 fresh bytes on each call, to name sessions.
            waiting: how long to wait for sites.
        """
        self._policy = policy
        self._trainer = trainer
        self._link = link
        self._run = run
        self._fresh = fresh
        self._waiting = waiting
        self._sequence = itertools.count(1)
        self._memory = Memory()
        self._status = Status(steps=sum(kind.sum.rounds for kind in policy.plan.kinds))
        self._reported_s = 0.0
        self._welcomed: Counter[str] = Counter()
        self._began_s, self._began_step = time.monotonic(), 0
        # Sites of one cohort mostly share their counts, and composing loss distributions takes a tenth of a second.
        self._epsilon = functools.lru_cache(maxsize=64)(epsilon)
        checkpoint = run.load(policy.study)
        self.tally = Tally(started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
        if checkpoint is not None:
            state, self.tally = checkpoint
            trainer.load(state)

    def run(self) -> str:
        """Train to the end and return why it ended, in one sentence.

        Raises:
            QuorumLost: too few sites for too long; the checkpoint stands.
            SumCorrupt: a person must look before the study goes on.
        """
        self._save()  # from now on there is a checkpoint to which what is asked for can be added
        self._wait(len(self._policy.study.cohort.sites), self._waiting.all_s)
        reason = ""
        while not reason:
            session = self._open()
            try:
                reason = self._session(session) or self._budget_end(self._policy.study.cohort.roster)
            finally:
                self._save()
        self._tell("trained", reason, force=True)
        return reason

    def _open(self) -> Session:
        """Return a new session, waiting for a quorum where there is none."""
        deadline = time.monotonic() + self._waiting.quorum_s
        while True:
            self._wait(self._policy.study.cohort.quorum, deadline - time.monotonic())
            self._tell("handshake", "agreeing on keys", force=True)
            try:
                return Session(self._policy, self._link, self._fresh, self._sequence, self._memory)
            except QuorumLost:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1.0)

    def _session(self, session: Session) -> str:
        """Run rounds until the session is used up, and return why training ended, if it did."""
        ends_s = time.monotonic() + SESSION_S
        self._began_s, self._began_step = time.monotonic(), self._step
        for _ in range(SESSION_ROUNDS):
            state = self._trainer.state()
            ask = self._trainer.ask(self._remaining())
            if ask is None:
                return "every planned round is done"
            cohort = session.cohort
            if len(cohort) < self._policy.study.cohort.quorum:
                return self._budget_end(session.members)
            self._round(session, cohort, ask, state)
            if time.monotonic() > ends_s or self._has_newcomers(session):
                break
        return ""

    def _budget_end(self, sites: Collection[str]) -> str:
        """Return why training ends where these sites without the spent-out ones are no quorum; else nothing."""
        spent_out = self._memory.spent_out
        if len(set(sites) - spent_out) >= self._policy.study.cohort.quorum:
            return ""
        return f"the rounds or the ceiling of {', '.join(sorted(spent_out))} are used up"

    def _has_newcomers(self, session: Session) -> bool:
        """Return whether a connected site is without this session's keys and deserves another handshake."""
        restarted = {site for site, code in session.refused.items() if code is Code.PROTOCOL}
        newcomers = (self._link.connected() - session.left_out - set(session.members)) | restarted
        welcome = {site for site in newcomers if self._welcomed[site] < _WELCOMES}
        self._welcomed.update(welcome)
        return bool(welcome)

    def _round(self, session: Session, cohort: tuple[str, ...], ask: Ask, state: State) -> None:
        kind = self._kind(ask)
        if self._remaining()[ask.sum] < 1:
            raise self._broken(f"asked for more rounds of {ask.sum!r} than it declared")
        payload = self._payload_bytes(kind, ask.payload)
        start = time.monotonic()
        # Durable before it is posted: a crash in between may state a charge too many, never one too few.
        self.tally.attempts[ask.sum] += 1
        for site in cohort:
            self.tally.charged.setdefault(site, Counter())[ask.sum] += 1
        self._run.note_asked(self.tally)
        attempt = session.attempt(cohort, kind, payload, lambda: self._overlap(ask, cohort, state))
        seconds = time.monotonic() - start
        self.tally.seconds += seconds
        if attempt.total is not None:
            self._release(Answer(ask.sum, attempt.total, attempt.noise_std, len(attempt.cohort)), seconds)

    def _overlap(self, ask: Ask, cohort: tuple[str, ...], state: State) -> None:
        """Do the coordinator's public work while the sites compute.

        The checkpoint counts this round as asked for: a crash costs its sum, never a second charge. It comes
        second, when the sites have their charges on disk, which may be the same disk.
        """
        self._trainer.overlap()
        self._run.save(self._policy.study, state, self.tally)
        self._tell("training", f"sum {ask.sum!r}", cohort=cohort)

    def _release(self, answer: Answer, seconds: float) -> None:
        self.tally.released[answer.sum] += 1
        self._trainer.receive(answer)
        numbers = {name: float(value) for name, value in self._trainer.progress().items()}
        self._status.numbers = numbers
        self.tally.history.append({"step": float(self._step), "seconds": seconds, **numbers})

    @property
    def _step(self) -> int:
        return sum(self.tally.attempts.values())

    def _remaining(self) -> Mapping[str, int]:
        return {kind.sum.name: kind.sum.rounds - self.tally.attempts[kind.sum.name] for kind in self._policy.plan.kinds}

    def _kind(self, ask: Ask) -> Kind:
        kind = self._policy.plan.kind(ask.sum)
        if kind is None:
            raise self._broken(f"asked for {ask.sum!r}, which it did not declare")
        return kind

    def _payload_bytes(self, kind: Kind, payload: Payload) -> bytes:
        """Return the arrays in declared order, little-endian float32."""
        parts = []
        for name, shape in kind.sum.payload:
            if name not in payload or payload[name].shape != shape:
                raise self._broken(f"asked for {kind.sum.name!r} without {name!r} of the declared shape {shape}")
            parts.append(np.ascontiguousarray(payload[name], dtype="<f4").tobytes())
        return b"".join(parts)

    def _broken(self, what: str) -> PluginError:
        return PluginError(f"its trainer {what}; mend the plugin", plugin=self._policy.study.model.plugin)

    def _save(self) -> None:
        self._run.save(self._policy.study, self._trainer.state(), self.tally)

    def _wait(self, wanted: int, seconds: float) -> None:
        """Wait until so many sites are connected or the time is over."""
        deadline = time.monotonic() + seconds
        while (here := len(self._link.connected())) < wanted and time.monotonic() < deadline:
            self._tell("waiting", f"{here} of {wanted} sites are connected")
            time.sleep(0.1)

    def _tell(self, phase: str, message: str, *, cohort: tuple[str, ...] | None = None, force: bool = False) -> None:
        """Report where the run stands, a few times a second at most."""
        now = time.monotonic()
        if not force and now - self._reported_s < _REPORT_S:
            return
        self._reported_s = now
        status, done = self._status, self._step - self._began_step
        status.phase, status.message, status.step = phase, message, self._step
        status.rate = done / max(now - self._began_s, 1e-9) if phase == "training" else 0.0
        status.left_s = (status.steps - status.step) / status.rate if status.rate else 0.0
        here = self._link.connected() if cohort is None else frozenset(cohort)
        status.sites = {
            site: {
                "present": site in here,
                "epsilon": spent(self._policy, self.tally.charged.get(site, Counter()), self._epsilon),
            }
            for site in self._policy.study.cohort.roster
        }
        self._run.report(status)


def spent(
    policy: Policy, rounds: Mapping[str, int], account: Callable[[tuple[SampledGaussian, ...], float], float] = epsilon
) -> float:
    """Return epsilon of the rounds a site was asked for, as the coordinator counts them."""
    events = tuple(charge(kind, policy.study, rounds.get(kind.sum.name, 0)) for kind in policy.plan.kinds)
    return account(events, policy.study.privacy.delta)
