"""The coordinator's half of secure aggregation: who takes part, and the sum of their masked words.

Never learns one site's sum, and never retries after a sum that does not cancel.
"""

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ..errors import LocalProtocolError, RemoteProtocolError
from ..privacy.plan import largest_entry
from ..sums import GRID, PROBE, Kind
from . import keys, ring, table
from .combination import combine
from .messages import CANARY_WORDS, PROBE_BITS, Confirm, Hello, Masked, Open, Roll, Round, Seal
from .policy import Policy

_NOISE_REACH = 16  # standard deviations; a discrete Gaussian exceeds them with chance below 2**-180


class SumCorrupt(RemoteProtocolError):
    """The masks of a complete cohort did not cancel; the study pauses until a person has looked."""


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
        self._masked: dict[str, Masked] = {}
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
        self._masked = {}
        return self._round

    def probe(self, cohort: tuple[str, ...]) -> Round:
        """Return a round without data: it shows whether the masks cancel, and costs no privacy."""
        return self.round(cohort, PROBE, b"")

    def add_masked(self, site: str, masked: Masked) -> None:
        """Take a site's masked words; wrong ones raise RemoteProtocolError and leave the site out."""
        message = self._round
        is_wanted = self.state is table.Aggregate.COLLECTING and message is not None and site in message.cohort
        if message is None or not is_wanted or masked.context != self._context:
            raise RemoteProtocolError("its sum answers another round", peer=site)
        keys.verify(self._keys[site], masked.signed(site), masked.signature, peer=site)
        kind, bits = self._kind(message)
        words = ring.from_bytes(masked.words, kind.sum.dim if kind else 0, bits, peer=site)
        canary = ring.from_bytes(masked.canary, CANARY_WORDS, bits, peer=site)
        if not self._policy.is_masked:  # then a liar shows by itself, and must not cost the others the round
            if (canary != 1).any():
                raise RemoteProtocolError("its canary words are not those of an unmasked vector", peer=site)
            if kind and not self._is_within_reach(ring.centred(words), kind, 1):
                raise RemoteProtocolError("its vector is larger than clipping and noise allow", peer=site)
        self._masked[site] = masked

    def give_up(self) -> None:
        """End a round in which a site is missing; its masks hide all that came."""
        self.state = table.aggregate_next(self.state, table.Got.SITE_LOST)
        self._masked = {}

    def total(self) -> npt.NDArray[np.int64]:
        """Return the complete cohort's combined vector on the scale of a sum, in grid steps, shape ``(dim,)``.

        Raises:
            SumCorrupt: the canaries or the sum's size show that masks did not cancel.
        """
        message = self._current()
        if set(self._masked) != set(message.cohort):
            raise LocalProtocolError("a sum needs every site of its cohort")
        kind, bits = self._kind(message)
        sites, dim = len(message.cohort), kind.sum.dim if kind else 0
        words = {site: masked.words for site, masked in self._masked.items()}
        if self._policy.is_masked:
            total = self._add(words, dim, bits)
            canary = self._add({site: masked.canary for site, masked in self._masked.items()}, CANARY_WORDS, bits)
            if (canary != sites).any() or (kind and not self._is_within_reach(total, kind, sites)):
                self.state = table.aggregate_next(self.state, table.Got.SUM_CORRUPT)
                raise SumCorrupt("the masks of a complete cohort did not cancel; the study pauses", peer="cohort")
        else:  # every vector was looked at when it came
            parts = [ring.centred(ring.from_bytes(words[site], dim, bits, peer=site)) for site in message.cohort]
            total = combine(parts, self._policy.study.aggregation.combine, self._policy.study.cohort.tolerated)
        self.state = table.aggregate_next(self.state, table.Got.SUM_COMPLETE)
        self._masked = {}
        return total

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
        clipped, noise = sites * largest_entry(self._policy.study, kind), GRID * math.sqrt(sites)
        reach = clipped + _NOISE_REACH * noise
        length = clipped + (math.sqrt(len(total)) + _NOISE_REACH) * noise
        is_in_box = -reach <= float(total.min()) and float(total.max()) <= reach
        return is_in_box and float(np.linalg.norm(total.astype(np.float64))) <= length

    def _add(self, parts: Mapping[str, bytes], count: int, bits: int) -> npt.NDArray[np.int64]:
        total = ring.to_words(np.zeros(count, dtype=np.int64), bits)
        for site, part in parts.items():
            ring.add_in_place(total, ring.from_bytes(part, count, bits, peer=site))
        return ring.centred(total)
