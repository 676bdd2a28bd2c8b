"""The trusted core of a site: it alone touches records, key and ledger; frames in, frames out.

Never opens a network connection, and never answers anything but the secure-aggregation messages.
"""

import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Array, LocalPart, Payload, PrivatePart, Still
from synthfed.plugins.registry import FOREIGN
from synthfed.protocols.errors import RemoteProtocolError
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.privacy.plan import box
from synthfed.protocols.privacy.sampling import random_places, uniform_numbers
from synthfed.protocols.secagg import messages, ring
from synthfed.protocols.secagg.keys import Ephemeral
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.secagg.session import Accepted, Fresh, Seeds
from synthfed.protocols.secagg.site import SiteMachine
from synthfed.protocols.sums import SCALE_BITS, Kind, answer_time_s, noise_shares

from .books.audit_log import Log, Unlogged
from .channel import Clock, Reply
from .data import UnitData
from .gate import Closed, Gate, OverLimit
from .local_steps import moved
from .train import clipped_sum, read_payload
from .vault import Ledger

_LOG: Final = logging.getLogger(__name__)
OVERRUNS_ALLOWED: Final = 10
_MUTED: Final = "this site answers with noise alone until you stop it and run `synthfed client clear`"


@dataclass(frozen=True, slots=True)
class Agent:
    """One site in one study: frames in, frames out.

    Attributes:
        policy: what was pinned.
        machine: the protocol's state.
        gate: the site's veto.
        ledger: every charge.
        data: the records.
        private: the plugin's private part.
        clock: seconds, monotonic; of sessions' ages and of when answers are due.
        local: what the plugin does between two steps of a round; it never meets a record.
        log: where decisions are written down before they take effect. What a step's computation came to is not one:
            the ledger has it, and a line between charge and answer would take a time that depends on records.
        told: refusals of this session that the log has; a coordinator that insists fills no disk.
        objection: looks why this site does not consent now, empty where it does; asked before every answer.
    """

    policy: Policy
    machine: SiteMachine
    gate: Gate
    ledger: Ledger
    data: UnitData
    private: PrivatePart
    clock: Clock
    local: LocalPart = field(default_factory=Still)
    log: Log = field(default_factory=Unlogged)
    told: set[tuple[str, str]] = field(default_factory=set)
    objection: Callable[[], str] = field(kw_only=True)

    def answer(self, frame: bytes) -> Reply | None:
        """Return the reply to one frame: whatever is wrong with a request becomes one constant refusal.

        None closes the connection, and the session with it: the frame is no request.

        Raises:
            PrivacyError: the ledger or the log failed; the agent must stop.
        """
        received_s = self.clock()
        self.expire(received_s)
        request, sequence = _request(frame)
        if request is None:
            _LOG.warning("session closed: a frame is no request")
            self.machine.close()
            return None
        try:
            answer = self._answer(request, received_s)
        except Closed as error:
            self._note_refusal(error.rule)
            _LOG.warning("refused: %s", error)
            answer = _Answer(messages.Refusal(messages.Code.PROTOCOL), received_s)
        except RemoteProtocolError as error:
            _LOG.warning("refused: %s", error)
            answer = _Answer(messages.Refusal(messages.Code.PROTOCOL), received_s)
        except OverLimit as error:
            self._note_refusal(error.rule, error.kind)
            _LOG.warning("refused: %s", error)
            answer = _Answer(messages.Refusal(messages.Code.BUDGET), received_s)
        return Reply(messages.encode(answer.message, sequence), answer.due_s, answer.slot_s)

    def expire(self, now_s: float) -> None:
        """Forget a session that has had its rounds or its time; called now and then, also while nothing comes."""
        if self.machine.expire(now_s):
            self.log.note("session-over", charges=self.ledger.length)
            _LOG.info("session over: it has had its rounds or its time; its keys are erased")

    def _note_refusal(self, rule: str, kind: str = "") -> None:
        """Write a refusal down, once in a session for each rule and sum."""
        if (rule, kind) not in self.told:
            facts = {"rule": rule, **({"sum": kind} if kind else {}), **self._study}
            self.log.note("refused", who="coordinator", charges=self.ledger.length, **facts)
            self.told.add((rule, kind))

    @property
    def _study(self) -> dict[str, str]:
        return {"study": self.policy.study.name, "terms": self.policy.study.hash.hex()}

    def _answer(self, request: messages.Request, received_s: float) -> "_Answer":
        self.ledger.refresh()
        objection = self.objection()
        if objection:
            # The coordinator learns no more than that a person must act; the session's keys have no more use.
            self._note_refusal("approval")
            _LOG.error("refused: %s", objection)
            self.machine.close()
            return _Answer(messages.Refusal(messages.Code.STOPPED), received_s)
        match request:
            case messages.Open():
                self.gate.check_hours()
                return _Answer(self.machine.hello(request, self._fresh()), received_s)
            case messages.Roll():
                known, keys = self.ledger.journal_floors(), self.policy.study.cohort.keys
                # By key: the same name in another study may be another site.
                floors = {site: known.get(key.hex(), 0) for site, key in keys.items()}
                confirm = self.machine.confirm(request, floors)
                self.ledger.remember_peers({keys[hello.site].hex(): hello.journal_length for hello in request.hellos})
                return _Answer(confirm, received_s)
            case messages.Seal():
                ready, sites = self.machine.activate(request), sorted(each.site for each in request.confirms)
                self.told.clear()
                facts = {"session": self.machine.transcript.hex(), **self._study}
                self.log.note("session-opened", who="coordinator", sites=sites, charges=self.ledger.length, **facts)
                return _Answer(ready, received_s)
            case messages.Round():
                return self._round(request, received_s)
            case messages.Reveal():
                revealed = self.machine.reveal(request)
                _LOG.warning("the coordinator says that the last sum was corrupt; its canary keys were opened")
                return _Answer(revealed, received_s)

    def _fresh(self) -> Fresh:
        return Fresh(
            Ephemeral.generate(self.policy.suite),
            nonce=secrets.token_bytes(32),
            entropy=secrets.token_bytes(32),
            journal_length=self.ledger.length,
            journal_head=self.ledger.head,
            opened_s=self.clock(),
        )

    def _round(self, message: messages.Round, received_s: float) -> "_Answer":
        repeated = self.machine.repeated(message)
        if repeated is not None:
            return _Answer(repeated, received_s)
        if self.ledger.unsettled() or self.ledger.overruns() >= OVERRUNS_ALLOWED:
            self._note_refusal("clearance")
            _LOG.error("stopped: look at this log, stop the agent, then run `synthfed client clear`")
            return _Answer(messages.Refusal(messages.Code.STOPPED), received_s)
        accepted = self.machine.accept(message)
        if accepted.kind is None:
            self.machine.commit(accepted)
            return _Answer(self.machine.mask(accepted, np.empty(0, dtype=np.int64)), received_s)
        return self._charged(accepted, accepted.kind)

    def _charged(self, accepted: Accepted, kind: Kind) -> "_Answer":
        """Charge, compute, mask: after the charge the only outcomes are an answer at its time or a dead process."""
        message, study = accepted.round, self.policy.study
        payload = read_payload(kind, message.payload)
        sequence = self.gate.charge(kind, self.machine.transcript, message.counter, accepted.context)
        seeds = self.machine.commit(accepted)
        is_muted = self.ledger.failures() > 0
        # Everything before this point took a time that no record had a part in; the clock starts here.
        slot_s = answer_time_s(study, kind.sum.family)
        due_s = self.clock() + slot_s
        if is_muted:
            _LOG.error("an earlier step failed on records; %s", _MUTED)
        noised, has_failed = self._noised(kind, seeds, payload, len(message.cohort), is_muted=is_muted)
        masked = self.machine.mask(accepted, noised)
        if self.clock() > due_s:
            self.machine.abandon()
            self.ledger.settle(sequence, "failed" if has_failed else "abandoned")
            _LOG.error("a step overran its fixed answer time and was given up; its charge stands")
            return _Answer(messages.Refusal(messages.Code.ABANDONED), due_s + slot_s, slot_s)
        self.ledger.settle(sequence, "failed" if has_failed else "sent")
        return _Answer(masked, due_s, slot_s)

    def _noised(
        self, kind: Kind, seeds: Seeds, payload: Payload, sites: int, *, is_muted: bool
    ) -> tuple[npt.NDArray[np.int64], bool]:
        """Return a round's vector in grid steps, all of its steps added up, and whether one of them failed.

        Every step has coins and noise of its own, and no step's sum acts on another but through its noise. After a
        failure on records all is noise alone, so that nobody outside sees a difference.
        """
        sampling, noising = KeyStream(seeds.sample), KeyStream(seeds.noise)
        grid_step = kind.grid_step(noise_shares(self.policy.study, sites))
        vector, at = np.zeros(kind.sum.dim, dtype=np.int64), None if is_muted else payload
        with ThreadPoolExecutor(1) as beside:  # the noise is drawn while the forward pass runs
            for step in range(kind.sum.steps):
                noise = beside.submit(discrete_gaussian, noising, kind.sum.dim, SCALE_BITS)
                total = None if at is None else self._total(kind, sampling, at)
                noised = noise.result() + (0 if total is None else self._on_grid(kind, total, grid_step))
                vector += noised
                if at is not None:
                    at = None if total is None else self._moved(kind, at, noised.astype(np.float64) * grid_step, step)
        return vector, at is None and not is_muted

    def _moved(self, kind: Kind, payload: Payload, noised: Array, step: int) -> Payload | None:
        """Return the next step's payload; None where the plugin failed, of which outside as little may show."""
        if step + 1 == kind.sum.steps:
            return payload
        try:
            return moved(self.local, kind, payload, noised, step)
        except FOREIGN as error:
            _LOG.error("the plugin failed between two steps (%s); %s", type(error).__name__, _MUTED)
            return None

    def _total(self, kind: Kind, stream: KeyStream, payload: Payload) -> npt.NDArray[np.float64] | None:
        """Return the sample's clipped sum; None where the plugin failed, which may depend on records.

        The answer is then noise alone, at its time, and so is every later one until a person has looked and
        cleared the ledger: neither the failure nor its text leaves the agent.
        """
        try:
            batch = self.data.draw(stream, kind.sum.sample_rate, kind.slots)
            # Independent between slots, so that a unit's chance does not depend on who else was sampled.
            coins = uniform_numbers(stream, kind.slots, kind.sum.coins)
            places = random_places(stream, len(batch), kind.slots)
            total = clipped_sum(self.private, kind, payload, batch, coins, places)
        except FOREIGN as error:  # on records; its text could hold a value
            _LOG.error("the plugin failed on records (%s); %s", type(error).__name__, _MUTED)
            return None
        if not np.isfinite(total).all():
            _LOG.error("the plugin's sum is not finite; %s", _MUTED)
            return None
        return total

    def _on_grid(self, kind: Kind, total: npt.NDArray[np.float64], grid_step: float) -> npt.NDArray[np.int64]:
        return ring.to_grid(total, grid_step, box(self.policy.study, kind.ring_bits, kind.sum.steps))


def _request(frame: bytes) -> tuple[messages.Request | None, int]:
    """Return a coordinator's request and its sequence number, or None where the frame is something else."""
    try:
        message, sequence = messages.decode(frame)
    except RemoteProtocolError:
        return None, 0
    return (message if isinstance(message, messages.Request) else None), sequence


@dataclass(frozen=True, slots=True)
class _Answer:
    """A message, when it is due, and the slots in which it may leave if it is late (0: at once)."""

    message: messages.Message
    due_s: float
    slot_s: float = 0.0
