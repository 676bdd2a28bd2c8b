"""The coordinator's half of secure aggregation: who takes part, and the sum of their masked words.

Never learns one site's sum, and never retries after a sum that does not cancel.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ..errors import LocalProtocolError, RemoteProtocolError
from ..privacy.plan import largest_entry
from ..sums import GRID, PROBE, Kind
from . import keys, ring, table
from .blame import Finding, find
from .combination import combine
from .messages import CANARY_WORDS, PROBE_BITS, Confirm, Hello, Masked, Open, Reveal, Revealed, Roll, Round, Seal
from .policy import Policy

CORRUPT: Final = "the masks of a complete cohort did not cancel; the study pauses"
_NOISE_REACH = 16  # standard deviations; a discrete Gaussian exceeds them with chance below 2**-180


class SumCorrupt(RemoteProtocolError):
    """The masks of a complete cohort did not cancel; the study pauses until a person has looked."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """What is kept of an answer once its words are in the sum: what its site signed, and the canary words."""

    signed: bytes
    canary: bytes


class Aggregator:
    """One session of one study at the coordinator."""

    def __init__(self, policy: Policy, session: bytes) -> None:
        """Start a session named by 32 fresh bytes."""
        self._policy = policy
        self._hash = policy.hash
        self._suite = policy.suite
        self._keys = policy.study.cohort.keys
        self._session = session
        self._hellos: dict[str, Hello] = {}
        self._confirms: dict[str, Confirm] = {}
        self._transcript = b""
        self._counter = 0
        self._round: Round | None = None
        self._context = b""
        self._taken: dict[str, _Taken] = {}
        self._sum = ring.zeros(0, PROBE_BITS)  # of all words that were taken, where they are masked
        self._parts: dict[str, ring.Words] = {}  # each site's words, where they are not
        self._stated: dict[str, dict[str, bytes]] = {}  # canary keys of a corrupt sum, by the site that states them
        self.state = table.Aggregate.HELLOS

    @property
    def members(self) -> tuple[str, ...]:
        """The sites of the session, sorted."""
        return tuple(sorted(self._hellos))

    def open(self) -> Open:
        """Return message S1."""
        return Open(self._session)

    def add_hello(self, site: str, hello: Hello) -> None:
        """Take a site's Hello; a wrong one raises RemoteProtocolError and leaves the site out."""
        is_wanted = self.state is table.Aggregate.HELLOS and site in self._keys
        if not is_wanted or hello.site != site or hello.session != self._session:
            raise RemoteProtocolError("its Hello is not for this session and site", peer=site)
        keys.verify(self._keys[site], hello.signed(self._hash), hello.signature, peer=site)
        if not self._suite.fits(hello.kem):
            raise RemoteProtocolError("its Hello has not the keys of the study's key agreement", peer=site)
        self._hellos[site] = hello

    def roll(self) -> Roll:
        """Return message S2 for everyone whose Hello was taken."""
        self.state = table.aggregate_next(self.state, table.Got.ROLL_COMPLETE)
        roll = Roll(tuple(self._hellos[site] for site in self.members))
        self._transcript = roll.transcript(self._hash)
        return roll

    def add_confirm(self, site: str, confirm: Confirm) -> None:
        """Take a site's confirmation; a wrong one raises RemoteProtocolError."""
        is_wanted = self.state is table.Aggregate.CONFIRMS and site in self._hellos
        if not is_wanted or confirm.site != site or confirm.transcript != self._transcript:
            raise RemoteProtocolError("it confirmed another transcript", peer=site)
        keys.verify(self._keys[site], confirm.signed(), confirm.signature, peer=site)
        if confirm.receivers != self._suite.receivers(site, self._hellos):
            raise RemoteProtocolError("its ciphertexts are not those of the study's key agreement", peer=site)
        self._confirms[site] = confirm

    def seal(self) -> Seal:
        """Return message S3; every member must have confirmed."""
        if set(self._confirms) != set(self._hellos):
            raise LocalProtocolError("a session cannot be sealed before every member confirmed")
        self.state = table.aggregate_next(self.state, table.Got.SEAL_COMPLETE)
        return Seal(tuple(self._confirms[site] for site in self.members))

    def round(self, cohort: tuple[str, ...], kind: str, payload: bytes) -> Round:
        """Return the next round's message for a cohort of members."""
        self.state = table.aggregate_next(self.state, table.Got.ROUND_SENT)
        self._counter += 1
        self._round = Round(self._counter, tuple(sorted(cohort)), kind, payload)
        self._context = self._round.context(self._transcript)
        self._forget()
        if self._policy.is_masked:
            plan, bits = self._kind(self._round)
            self._sum = ring.zeros(plan.sum.dim if plan else 0, bits)
        return self._round

    def probe(self, cohort: tuple[str, ...]) -> Round:
        """Return a round without data: it shows whether the masks cancel, and costs no privacy."""
        return self.round(cohort, PROBE, b"")

    def add_masked(self, site: str, masked: Masked) -> None:
        """Add a site's masked words to the sum; wrong ones raise RemoteProtocolError and leave the site out.

        The same answer again changes nothing, so that no site counts twice; a second, other one is refused.
        """
        message = self._round
        is_wanted = self.state is table.Aggregate.COLLECTING and message is not None and site in message.cohort
        if message is None or not is_wanted or masked.context != self._context:
            raise RemoteProtocolError("its sum answers another round", peer=site)
        signed = masked.signed(site)
        keys.verify(self._keys[site], signed, masked.signature, peer=site)
        if site in self._taken:
            if self._taken[site].signed != signed:
                raise RemoteProtocolError("it has answered this round before, with another sum", peer=site)
            return
        kind, bits = self._kind(message)
        words = ring.from_bytes(masked.words, kind.sum.dim if kind else 0, bits, peer=site)
        canary = ring.from_bytes(masked.canary, CANARY_WORDS, bits, peer=site)
        if self._policy.is_masked:
            ring.add_in_place(self._sum, words)
        else:  # then a liar shows by itself: the round is lost and was charged, but it is known who to leave out next
            if (canary != 1).any():
                raise RemoteProtocolError("its canary words are not those of an unmasked vector", peer=site)
            if kind and not self._is_within_reach(ring.centred(words), kind, 1):
                raise RemoteProtocolError("its vector is larger than clipping and noise allow", peer=site)
            self._parts[site] = words
        self._taken[site] = _Taken(signed, masked.canary)

    def give_up(self) -> None:
        """End a round in which a site is missing; its masks hide all that came."""
        self.state = table.aggregate_next(self.state, table.Got.SITE_LOST)
        self._forget()

    def total(self) -> npt.NDArray[np.int64]:
        """Return the complete cohort's combined vector on the scale of a sum, in grid steps, shape ``(dim,)``.

        Raises:
            SumCorrupt: the canaries or the sum's size show that masks did not cancel; `reveal` may find whose.
        """
        message = self._current()
        if set(self._taken) != set(message.cohort):
            raise LocalProtocolError("a sum needs every site of its cohort")
        if self._policy.is_masked:
            kind, bits = self._kind(message)
            total, sites = ring.centred(self._sum), len(message.cohort)
            if not self._is_cancelled(bits) or (kind and not self._is_within_reach(total, kind, sites)):
                self.state = table.aggregate_next(self.state, table.Got.SUM_CORRUPT)
                raise SumCorrupt(CORRUPT, peer="cohort")
        else:  # every vector was looked at when it came
            parts = [ring.centred(self._parts[site]) for site in message.cohort]
            total = combine(parts, self._policy.study.aggregation.combine, self._policy.study.cohort.tolerated)
        self.state = table.aggregate_next(self.state, table.Got.SUM_COMPLETE)
        self._forget()
        return total

    def reveal(self) -> Reveal:
        """Return what asks each site of a cohort whose sum was corrupt for that round's canary keys."""
        if self.state is not table.Aggregate.REVEALING:
            raise LocalProtocolError("canary keys are opened only after a sum that was corrupt")
        return Reveal(self._context)

    def add_revealed(self, site: str, revealed: Revealed) -> None:
        """Take the keys that a site states; wrong ones raise RemoteProtocolError, and it then has opened nothing."""
        cohort = self._current().cohort
        is_wanted = self.state is table.Aggregate.REVEALING and site in cohort and site not in self._stated
        if not is_wanted or revealed.context != self._context:
            raise RemoteProtocolError("it opens keys that were not asked for", peer=site)
        keys.verify(self._keys[site], revealed.signed(site), revealed.signature, peer=site)
        if [peer for peer, _ in revealed.keys] != [peer for peer in cohort if peer != site]:
            raise RemoteProtocolError("it does not state one key for each other site of its cohort", peer=site)
        self._stated[site] = dict(revealed.keys)

    def judge(self) -> Finding:
        """Return what was opened shows of the corrupt sum; nothing leads on from there."""
        self.state = table.aggregate_next(self.state, table.Got.JUDGED)
        _, bits = self._kind(self._current())
        canaries = {site: taken.canary for site, taken in self._taken.items()}
        return find(canaries, self._stated, bits, self._policy.study.aggregation.mask_cipher)

    def _forget(self) -> None:
        """Let go of what came in a round."""
        self._taken, self._parts, self._sum = {}, {}, ring.zeros(0, PROBE_BITS)

    def _current(self) -> Round:
        if self._round is None:
            raise LocalProtocolError("no round has been sent")
        return self._round

    def _kind(self, message: Round) -> tuple[Kind | None, int]:
        kind = self._policy.plan.kind(message.kind)
        return kind, kind.ring_bits if kind else PROBE_BITS

    def _is_within_reach(self, total: npt.NDArray[np.int64], kind: Kind, sites: int) -> bool:
        """Return whether every entry, and the norm, are what the clipped sums and noise of so many sites can reach.

        The norm of d noise values is below its root mean square by a factor sqrt(d) plus 16 standard
        deviations (Gaussian concentration: it is a 1-Lipschitz function of them).
        """
        clipped, noise = sites * largest_entry(self._policy.study, kind), GRID * math.sqrt(sites * kind.sum.steps)
        reach = clipped + _NOISE_REACH * noise
        length = clipped + (math.sqrt(len(total)) + _NOISE_REACH) * noise
        is_in_box = -reach <= float(total.min()) and float(total.max()) <= reach
        return is_in_box and ring.norm(total) <= length

    def _is_cancelled(self, bits: int) -> bool:
        """Return whether the canary words of all sites, each of which hides a one, add up to the number of sites."""
        total = ring.zeros(CANARY_WORDS, bits)
        for site, taken in self._taken.items():
            ring.add_in_place(total, ring.from_bytes(taken.canary, CANARY_WORDS, bits, peer=site))
        return bool((ring.centred(total) == len(self._taken)).all())
