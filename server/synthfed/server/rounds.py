"""Sessions and rounds: the handshake, one private sum per round, and who takes part in the next.

Never retries a round under its counter, and never goes on after a sum that does not cancel.
"""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from synthfed.protocols.errors import QuorumLost, RemoteProtocolError
from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.aggregator import Aggregator
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.sums import Kind, answer_time_s, noise_shares

from .link import Link

_Message = TypeVar("_Message")

_LOG: Final = logging.getLogger(__name__)
_HANDSHAKES: Final = 4
_HANDSHAKE_S: Final = 20.0
_GRACE_S: Final = 10.0  # beyond the fixed answer time, for the network and a busy machine


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one round went.

    Attributes:
        cohort: the sites that were asked, and so charged.
        total: the released sum in the kind's own unit, shape ``(dim,)``; None if a site did not answer.
        noise_std: standard deviation of its noise per coordinate.
    """

    cohort: tuple[str, ...]
    total: npt.NDArray[np.float64] | None
    noise_std: float


class Session:
    """One authenticated session with the sites that are connected when it opens."""

    def __init__(
        self, policy: Policy, link: Link, fresh: Callable[[], bytes], sequence: "itertools.count[int]"
    ) -> None:
        """Shake hands with everyone connected.

        Args:
            policy: what everyone has pinned.
            link: the transport.
            fresh: 32 fresh bytes on each call.
            sequence: frame numbers, shared by all sessions over the link.

        Raises:
            QuorumLost: too few sites answered.
        """
        self._policy = policy
        self._link = link
        self._sequence = sequence
        self._quorum = policy.study.cohort.quorum
        self.refused: dict[str, messages.Code] = {}
        self._round = 0
        self._absences: Counter[str] = Counter()
        self._back_in: dict[str, int] = {}
        self._aggregator = self._shake_hands(fresh)
        self._probe()

    @property
    def members(self) -> tuple[str, ...]:
        """The sites that hold this session's keys."""
        return self._aggregator.members

    @property
    def cohort(self) -> tuple[str, ...]:
        """The members that can be asked now: connected, within budget, and not resting after an absence."""
        spent_out = {
            site for site, code in self.refused.items() if code in (messages.Code.BUDGET, messages.Code.STOPPED)
        }
        here = self._link.connected() - spent_out
        return tuple(site for site in self._aggregator.members if site in here and self._is_rested(site))

    def has_quorum(self) -> bool:
        """Return whether enough members are left for another round."""
        return len(self.cohort) >= self._quorum

    def attempt(self, kind: Kind, payload: bytes, meanwhile: Callable[[], None]) -> Attempt:
        """Ask the cohort for one private sum; every site asked counts the round, whatever comes of it.

        Args:
            kind: which sum.
            payload: the round's arrays as bytes.
            meanwhile: public work, done while the sites compute.

        Raises:
            QuorumLost: fewer members than the quorum are left.
            SumCorrupt: the masks of a complete cohort did not cancel.
        """
        cohort = self.cohort
        if len(cohort) < self._quorum:
            raise QuorumLost(f"{len(cohort)} of {self._quorum} needed sites are left: {', '.join(cohort) or 'none'}")
        self._round += 1
        message = self._aggregator.round(cohort, kind.sum.name, payload)
        self._post(dict.fromkeys(cohort, message))
        meanwhile()
        is_complete = self._take_sums(cohort, answer_time_s(self._policy.study, kind.sum.family) + _GRACE_S)
        if not is_complete:
            self._aggregator.give_up()
            return Attempt(cohort, None, 0.0)
        shares = noise_shares(self._policy.study, len(cohort))
        total = self._aggregator.total().astype(np.float64) * kind.grid_step(shares)
        noise_std = kind.noise_multiplier * kind.sum.clip_norm * math.sqrt(len(cohort) / shares)
        return Attempt(cohort, total, noise_std)

    def _shake_hands(self, fresh: Callable[[], bytes]) -> Aggregator:
        excluded: set[str] = set()
        for _ in range(_HANDSHAKES):
            aggregator = Aggregator(self._policy, fresh())
            candidates = self._link.connected() - excluded
            hellos = self._ask(dict.fromkeys(candidates, aggregator.open()), messages.Hello, _HANDSHAKE_S)
            excluded |= candidates - self._taken(hellos, aggregator.add_hello)
            if len(aggregator.members) < self._quorum:
                break
            members = frozenset(aggregator.members)
            confirms = self._ask(dict.fromkeys(members, aggregator.roll()), messages.Confirm, _HANDSHAKE_S)
            lost = members - self._taken(confirms, aggregator.add_confirm)
            if not lost:
                ready = self._ask(dict.fromkeys(members, aggregator.seal()), messages.Ready, _HANDSHAKE_S)
                lost = members - set(ready)
            if not lost:
                return aggregator
            excluded |= lost
        count = len(self._link.connected() - excluded)
        raise QuorumLost(
            f"{count} of {self._quorum} needed sites completed the handshake; look at the logs of "
            f"{', '.join(sorted(excluded)) or 'the missing sites'}"
        )

    def _probe(self) -> None:
        """Look, without data, whether the masks cancel, so that a broken session costs no privacy."""
        self._post(dict.fromkeys(self.cohort, self._aggregator.probe(self.cohort)))
        if not self._take_sums(self.cohort, _HANDSHAKE_S):
            raise QuorumLost("a site left between the handshake and the first round")
        self._aggregator.total()

    def _take_sums(self, cohort: Iterable[str], timeout_s: float) -> bool:
        """Hand the cohort's answers to the aggregator; who does not answer well rests for some rounds."""
        answers = self._collect(messages.Masked, timeout_s)
        missing = set(cohort) - self._taken(answers, self._aggregator.add_masked)
        for site in missing:  # one round at first, then 2, 4, 8: a slow site costs little and may come back
            self._back_in[site] = self._round + 1 + 2 ** self._absences[site]
            self._absences[site] += 1
        if missing:
            _LOG.warning("no sum from %s", ", ".join(sorted(missing)))
        return not missing

    def _is_rested(self, site: str) -> bool:
        return self._round + 1 >= self._back_in.get(site, 0)

    def _ask(
        self, requests: Mapping[str, messages.Message], answer: type[_Message], timeout_s: float
    ) -> dict[str, _Message]:
        self._post(requests)
        return self._collect(answer, timeout_s)

    def _post(self, requests: Mapping[str, messages.Message]) -> None:
        number = next(self._sequence)
        encoded = {id(message): messages.encode(message, number) for message in requests.values()}
        self._link.post({site: encoded[id(message)] for site, message in requests.items()}, number)

    def _collect(self, answer: type[_Message], timeout_s: float) -> dict[str, _Message]:
        """Return the well-formed answers of the wanted type; a refusal is remembered."""
        answers: dict[str, _Message] = {}
        for site, frame in self._link.collect(timeout_s).items():
            try:
                message, _ = messages.decode(frame)
            except RemoteProtocolError as error:
                _LOG.warning("%s: %s", site, error)
                continue
            if isinstance(message, answer):
                answers[site] = message
            elif isinstance(message, messages.Refusal):
                self.refused[site] = message.code
                _LOG.warning("%s refused: %s", site, message.code.name)
        return answers

    def _taken(self, answers: Mapping[str, _Message], take: Callable[[str, _Message], None]) -> set[str]:
        """Return the sites whose answer was accepted."""
        taken = set()
        for site, answer in answers.items():
            try:
                take(site, answer)
                taken.add(site)
            except RemoteProtocolError as error:
                _LOG.warning("left out: %s", error)
        return taken
