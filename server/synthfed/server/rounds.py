"""Sessions and rounds: the handshake, one private sum per round, and who takes part in the next.

Never retries a round under its counter, and never goes on after a sum that does not cancel.
"""

import itertools
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from synthfed.protocols.errors import QuorumLost, RemoteProtocolError
from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.aggregator import CORRUPT, Aggregator, SumCorrupt
from synthfed.protocols.secagg.combination import noise_factor
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.sums import Kind, answer_time_s, noise_shares

from .link import Link

_Message = TypeVar("_Message")

_LOG: Final = logging.getLogger(__name__)
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


@dataclass(slots=True)
class Memory:
    """What a coordinator knows of its sites beyond one session.

    Attributes:
        journals: the longest journal that each site has stated.
        spent_out: sites that refused for their budget, and are not asked again.
        absences: how often each site's sum was missing or refused; each makes its next rest twice as long.
    """

    journals: dict[str, int] = field(default_factory=dict)
    spent_out: set[str] = field(default_factory=set)
    absences: Counter[str] = field(default_factory=Counter)


class Session:
    """One authenticated session with the sites that are connected when it opens."""

    def __init__(
        self,
        policy: Policy,
        link: Link,
        fresh: Callable[[], bytes],
        sequence: "itertools.count[int]",
        memory: Memory | None = None,
    ) -> None:
        """Shake hands with everyone connected.

        Args:
            policy: what everyone has pinned.
            link: the transport.
            fresh: 32 fresh bytes on each call.
            sequence: frame numbers, shared by all sessions over the link.
            memory: shared by all sessions of a run.

        Raises:
            QuorumLost: too few sites agreed; it names those left out.
            SumCorrupt: the masks of all members did not cancel, before any record was touched.
        """
        self._policy = policy
        self._link = link
        self._sequence = sequence
        self._quorum = policy.study.cohort.quorum
        self._memory = memory or Memory()
        self.refused: dict[str, messages.Code] = {}
        self._suspects: frozenset[str] = frozenset()
        self._round = 0
        # A rest ends with its session: else a quorum of resting sites would be waited for in vain.
        self._back_in: dict[str, int] = {}
        self._aggregator = self._agree(fresh)

    @property
    def members(self) -> tuple[str, ...]:
        """The sites that hold this session's keys."""
        return self._aggregator.members

    @property
    def cohort(self) -> tuple[str, ...]:
        """The members that can be asked now: connected, within budget, and not resting after an absence."""
        here = self._link.connected() - self.left_out
        return tuple(site for site in self._aggregator.members if site in here and self._is_rested(site))

    @property
    def left_out(self) -> frozenset[str]:
        """The sites that another handshake would not bring back: out of budget, stopped, or not trusted by most."""
        stopped = {site for site, code in self.refused.items() if code is messages.Code.STOPPED}
        return self._suspects | self._memory.spent_out | stopped

    def attempt(self, cohort: tuple[str, ...], kind: Kind, payload: bytes, meanwhile: Callable[[], None]) -> Attempt:
        """Ask a cohort for one private sum; every site asked counts the round, whatever comes of it.

        Args:
            cohort: members, a quorum at least.
            kind: which sum.
            payload: the round's arrays as bytes.
            meanwhile: public work, done while the sites compute.

        Raises:
            SumCorrupt: the masks of a complete cohort did not cancel.
        """
        self._round += 1
        message = self._aggregator.round(cohort, kind.sum.name, payload)
        self._post(dict.fromkeys(cohort, message))
        meanwhile()
        is_complete = self._take_sums(cohort, answer_time_s(self._policy.study, kind.sum.family) + _GRACE_S)
        if not is_complete:
            self._aggregator.give_up()
            return Attempt(cohort, None, 0.0)
        shares = noise_shares(self._policy.study, len(cohort))
        terms, tolerated = self._policy.study.aggregation, self._policy.study.cohort.tolerated
        own_std = kind.noise_multiplier * kind.sum.clip_norm * math.sqrt(kind.sum.steps / shares)
        noise_std = own_std * noise_factor(len(cohort), terms.combine, tolerated)
        total = self._total(self._aggregator, cohort).astype(np.float64) * kind.grid_step(shares)
        factor = _shrinking(total, kind, terms.clip_total)
        return Attempt(cohort, total * factor, noise_std * factor)

    def _agree(self, fresh: Callable[[], bytes]) -> Aggregator:
        """Shake hands until all members hold the same keys and their masks cancel.

        A site that fails is left out of the next handshake. Where most refuse the roll, a Hello in it may be at
        fault (of a ledger that was rolled back, say); then suspects are left out in turn, not those who refuse.
        Every handshake uses up a site or a trial, of which there are three more than sites.
        """
        failed, refusing = set(self._memory.spent_out), set[str]()
        trials = deque([frozenset[str]()])
        while trials:
            aggregator = Aggregator(self._policy, fresh())
            shrunk = self._greet(aggregator, self._link.connected() - failed - trials[0], failed)
            members = frozenset(aggregator.members)
            if len(members) < self._quorum:
                trials.popleft()
                continue
            lost = self._unconfirmed(aggregator)
            if 2 * len(lost & self.refused.keys()) > len(members):
                trials.popleft()
                if not refusing:
                    refusing |= lost
                    # Who was rolled back has also forgotten the journals of others, and refuses nobody.
                    singles = (frozenset({site}) for site in sorted(members))
                    trials += dict.fromkeys(each for each in (shrunk, members - lost, *singles) if each)
                continue
            lost = lost or self._unsealed(aggregator) or self._unprobed(aggregator)
            if not lost:
                self._suspects = trials[0]
                if self._suspects:
                    _LOG.error("most sites refuse %s; look at their logs", ", ".join(sorted(self._suspects)))
                return aggregator
            failed |= lost
        left_out = failed | refusing
        here, roster = self._link.connected(), set(self._policy.study.cohort.roster)
        advice = {
            "{} never connected or left; start `synthfed client run` there": roster - here,
            "look at the logs of {}": left_out & here,
        }
        said = "; ".join(text.format(", ".join(sorted(sites))) for text, sites in advice.items() if sites)
        raise QuorumLost(f"{len(here - left_out)} of {self._quorum} needed sites completed the handshake; {said}")

    def _greet(self, aggregator: Aggregator, candidates: frozenset[str], failed: set[str]) -> frozenset[str]:
        """Take the candidates' Hellos, add to ``failed`` who gave none; return whose journal shrank in this run."""
        stopped = messages.Code.STOPPED
        self.refused = {site: code for site, code in self.refused.items() if code is stopped}
        if len(candidates) < self._quorum:
            return frozenset()
        hellos = self._ask(dict.fromkeys(candidates, aggregator.open()), messages.Hello, _HANDSHAKE_S)
        taken = self._taken(hellos.items(), aggregator.add_hello)
        failed |= candidates - taken
        stated = {site: hellos[site].journal_length for site in taken}
        known = self._memory.journals
        shrunk = frozenset(site for site, length in stated.items() if length < known.get(site, 0))
        known |= {site: max(length, known.get(site, 0)) for site, length in stated.items()}
        return shrunk

    def _unconfirmed(self, aggregator: Aggregator) -> set[str]:
        members = aggregator.members
        confirms = self._ask(dict.fromkeys(members, aggregator.roll()), messages.Confirm, _HANDSHAKE_S)
        return set(members) - self._taken(confirms.items(), aggregator.add_confirm)

    def _unsealed(self, aggregator: Aggregator) -> set[str]:
        members = aggregator.members
        return set(members) - self._ask(dict.fromkeys(members, aggregator.seal()), messages.Ready, _HANDSHAKE_S).keys()

    def _unprobed(self, aggregator: Aggregator) -> set[str]:
        """Look, without data, whether the masks cancel, so that a broken session costs no privacy."""
        members = aggregator.members
        masked = self._ask(dict.fromkeys(members, aggregator.probe(members)), messages.Masked, _HANDSHAKE_S)
        lost = set(members) - self._taken(masked.items(), aggregator.add_masked)
        if not lost:
            self._total(aggregator, members)
        return lost

    def _total(self, aggregator: Aggregator, cohort: tuple[str, ...]) -> npt.NDArray[np.int64]:
        """Return the sum of a complete cohort; where it is corrupt, find out first whose masks did not cancel.

        Raises:
            SumCorrupt: it names the sites that deviate, as far as their canary keys show it.
        """
        try:
            return aggregator.total()
        except SumCorrupt as error:
            _LOG.error("%s; asking for the round's canary keys", error)
            opened = self._ask(dict.fromkeys(cohort, aggregator.reveal()), messages.Revealed, _HANDSHAKE_S)
            self._taken(opened.items(), aggregator.add_revealed)
            raise SumCorrupt(f"{CORRUPT}; {aggregator.judge()}", peer="cohort") from None

    def _take_sums(self, cohort: Iterable[str], timeout_s: float) -> bool:
        """Hand the cohort's answers to the aggregator as they come; who does not answer well rests for some rounds.

        Each is added up while the others are waited for, and none is kept.
        """
        missing = set(cohort) - self._taken(self._answers(messages.Masked, timeout_s), self._aggregator.add_masked)
        for site in missing:  # one round at first, then 2, 4, 8: a slow site costs little and may come back
            self._back_in[site] = self._round + 1 + 2 ** self._memory.absences[site]
            self._memory.absences[site] += 1
        if missing:
            _LOG.warning("no sum from %s", ", ".join(sorted(missing)))
        return not missing

    def _is_rested(self, site: str) -> bool:
        return self._round + 1 >= self._back_in.get(site, 0)

    def _ask(
        self, requests: Mapping[str, messages.Message], answer: type[_Message], timeout_s: float
    ) -> dict[str, _Message]:
        self._post(requests)
        return dict(self._answers(answer, timeout_s))

    def _post(self, requests: Mapping[str, messages.Message]) -> None:
        number = next(self._sequence)
        encoded = {id(message): messages.encode(message, number) for message in requests.values()}
        self._link.post({site: encoded[id(message)] for site, message in requests.items()}, number)

    def _answers(self, answer: type[_Message], timeout_s: float) -> Iterator[tuple[str, _Message]]:
        """Yield the well-formed answers of the wanted type as they come; a refusal is remembered."""
        for site, frame in self._link.collect(timeout_s):
            try:
                message, _ = messages.decode(frame)
            except RemoteProtocolError as error:
                _LOG.warning("%s: %s", site, error)
                continue
            if isinstance(message, answer):
                yield site, message
            elif isinstance(message, messages.Refusal):
                self.refused[site] = message.code
                if message.code is messages.Code.BUDGET:
                    self._memory.spent_out.add(site)
                _LOG.warning("%s refused: %s", site, message.code.name)

    def _taken(self, answers: Iterable[tuple[str, _Message]], take: Callable[[str, _Message], None]) -> set[str]:
        """Return the sites whose answer was accepted."""
        taken = set()
        for site, answer in answers:
            try:
                take(site, answer)
                taken.add(site)
            except RemoteProtocolError as error:
                _LOG.warning("left out: %s", error)
        return taken


def _shrinking(total: npt.NDArray[np.float64], kind: Kind, clip_total: float | None) -> float:
    """Return the factor that brings a gradient sum, each step's part, to the study's largest norm.

    The sum is released, so this is free.
    """
    if clip_total is None or kind.sum.family != "gradient":
        return 1.0
    limit = clip_total * kind.sum.clip_norm * kind.sum.steps
    return min(1.0, limit / max(float(np.linalg.norm(total)), limit))
