"""The trusted core of a site: it alone touches records, key and ledger; frames in, frames out.

Never opens a network connection, and never answers anything but the secure-aggregation messages.
"""

import logging
import secrets
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Payload, PrivatePart
from synthfed.protocols.errors import BudgetExceeded, PrivacyError, RemoteProtocolError
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.privacy.plan import box
from synthfed.protocols.secagg import messages, ring
from synthfed.protocols.secagg.keys import Ephemeral
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.secagg.site import Accepted, Fresh, Seeds, SiteMachine
from synthfed.protocols.sums import SCALE_BITS, answer_time_s, noise_shares

from .channel import Clock, Reply
from .data import UnitData
from .gate import Gate
from .train import clipped_sum, read_payload
from .vault import Charge, Ledger

_LOG: Final = logging.getLogger(__name__)
_OVERRUNS_ALLOWED: Final = 10


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
        clock: seconds, monotonic.
    """

    policy: Policy
    machine: SiteMachine
    gate: Gate
    ledger: Ledger
    data: UnitData
    private: PrivatePart
    clock: Clock
    overruns: list[int]

    def answer(self, frame: bytes) -> Reply:
        """Return the reply to one frame; whatever is wrong with it becomes one constant refusal.

        Raises:
            PrivacyError: the ledger failed; the agent must stop.
        """
        received_s = self.clock()
        sequence = 0
        try:
            message, sequence = messages.decode(frame)
            answer, due_s = self._answer(message, received_s)
        except RemoteProtocolError as error:
            _LOG.warning("refused: %s", error)
            answer, due_s = messages.Refusal(messages.Code.PROTOCOL), received_s
        except BudgetExceeded as error:
            _LOG.warning("refused: %s", error)
            answer, due_s = messages.Refusal(messages.Code.BUDGET), received_s
        return Reply(messages.encode(answer, sequence), due_s)

    def _answer(self, message: messages.Message, received_s: float) -> tuple[messages.Message, float]:
        match message:
            case messages.Open():
                return self.machine.hello(message, self._fresh()), received_s
            case messages.Roll():
                confirm = self.machine.confirm(message, self.ledger.journal_floors())
                self.ledger.remember_peers({hello.site: hello.journal_length for hello in message.hellos})
                return confirm, received_s
            case messages.Seal():
                return self.machine.activate(message), received_s
            case messages.Round():
                return self._round(message, received_s)
            case _:
                raise RemoteProtocolError(f"{type(message).__name__} is not for a site", peer="coordinator")

    def _fresh(self) -> Fresh:
        return Fresh(
            Ephemeral.generate(), secrets.token_bytes(32), secrets.token_bytes(32), self.ledger.length, self.ledger.head
        )

    def _round(self, message: messages.Round, received_s: float) -> tuple[messages.Message, float]:
        repeated = self.machine.repeated(message)
        if repeated is not None:
            return repeated, received_s
        if self.ledger.unsettled() or len(self.overruns) >= _OVERRUNS_ALLOWED:
            _LOG.error("stopped: a person must look at the log and run `synthfed client clear`")
            return messages.Refusal(messages.Code.STOPPED), received_s
        accepted = self.machine.accept(message)
        if accepted.kind is None:
            self.machine.commit(accepted)
            return self.machine.mask(accepted, np.empty(0, dtype=np.int64)), received_s
        return self._charged(accepted)

    def _charged(self, accepted: Accepted) -> tuple[messages.Message, float]:
        """Charge, compute, mask: after the charge the only outcomes are an answer at its time or none."""
        assert accepted.kind is not None  # noqa: S101 - the caller's branch
        kind, message = accepted.kind, accepted.round
        payload = read_payload(kind, message.payload)
        cost = self.gate.check(kind)
        study = self.policy.study
        charge = Charge(
            study.hash, study.name, kind.sum.name, self.machine.transcript, message.counter, accepted.context, cost
        )
        sequence = self.ledger.charge(charge)
        # Everything before this point took a time that no record had a part in; the clock starts here.
        answer_s = answer_time_s(study, kind.sum.family)
        due_s = self.clock() + answer_s
        seeds = self.machine.commit(accepted)
        values = self._computed(accepted, seeds, payload)
        if self.clock() > due_s:
            self.machine.abandon()
            self.ledger.settle(sequence, "abandoned")
            self.overruns.append(sequence)
            _LOG.error("a step overran its fixed answer time and was given up; its charge stands")
            return messages.Refusal(messages.Code.ABANDONED), self._next_slot(due_s, answer_s)
        masked = self.machine.mask(accepted, values)
        self.ledger.settle(sequence, "sent")
        return masked, due_s

    def _computed(self, accepted: Accepted, seeds: Seeds, payload: Payload) -> npt.NDArray[np.int64]:
        """Return the round's noised sum in grid steps; an error here may depend on records, so it ends the agent."""
        assert accepted.kind is not None  # noqa: S101 - the caller's branch
        kind, study = accepted.kind, self.policy.study
        try:
            batch = self.data.draw(KeyStream(seeds.sample), kind.sum.sample_rate, kind.slots)
            total = clipped_sum(self.private, kind, payload, batch)
            step = kind.grid_step(noise_shares(study, len(accepted.round.cohort)))
            grid = ring.to_grid(total, step, box(study, kind.ring_bits))
        except Exception as error:  # noqa: BLE001 - it must become neither an answer nor, by its text, a log line
            raise PrivacyError(
                f"the plugin failed on records in a charged step ({type(error).__name__}); the agent stops. "
                "Look at the plugin, then run `synthfed client clear`"
            ) from None
        return grid + discrete_gaussian(KeyStream(seeds.noise), kind.sum.dim, SCALE_BITS)

    def _next_slot(self, due_s: float, answer_s: float) -> float:
        """Return the next whole multiple of the answer time after a missed one."""
        return due_s + answer_s * ((self.clock() - due_s) // answer_s + 1)
