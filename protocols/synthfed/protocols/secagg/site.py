"""A site's half of secure aggregation: a state machine over messages and keys.

Never sees a record: it checks rounds, hands out seeds, and masks the finished integer sum.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..errors import LocalProtocolError, RemoteProtocolError
from ..sums import Kind
from . import keys, table
from .masks import apply_masks
from .messages import CANARY_WORDS, PROBE, SIGNATURE_BYTES, Confirm, Hello, Masked, Open, Ready, Roll, Round, Seal
from .policy import Policy
from .ring import to_words

COUNTER_WINDOW: Final = 2**16
_PROBE_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class Fresh:
    """What one session needs from outside the machine: fresh secrets and the journal's position."""

    ephemeral: keys.Ephemeral
    nonce: bytes
    entropy: bytes
    journal_length: int
    journal_head: bytes


@dataclass(frozen=True, slots=True)
class Accepted:
    """A round that passed every check and is not yet committed."""

    round: Round
    context: bytes
    kind: Kind | None


@dataclass(frozen=True, slots=True)
class Seeds:
    """Secret keys of one committed round: for the coins and for the noise."""

    sample: bytes
    noise: bytes


class SiteMachine:
    """One site in one session after another; every failed check leaves the state as it was."""

    def __init__(self, policy: Policy, site: str, identity: Ed25519PrivateKey) -> None:
        """Start idle."""
        self._policy = policy
        self._hash = policy.hash
        self._site = site
        self._identity = identity
        self.state = table.Site.IDLE
        self._forget()

    @property
    def transcript(self) -> bytes:
        """The hash of the session's agreed Hellos; empty before S2."""
        return self._transcript

    def hello(self, message: Open, fresh: Fresh) -> Hello:
        """Return the answer to S1; any earlier session's keys are forgotten."""
        following = table.site_next(self.state, table.Heard.OPEN)
        self._forget()
        x25519, kem = fresh.ephemeral.public
        unsigned = Hello(
            self._site,
            message.session,
            x25519,
            kem,
            fresh.nonce,
            fresh.journal_length,
            fresh.journal_head,
            bytes(SIGNATURE_BYTES),
        )
        signature = keys.sign(self._identity, unsigned.signed(self._hash))
        self._fresh = fresh
        self._hello = Hello(*(getattr(unsigned, name) for name in Hello.__slots__[:-1]), signature)
        self.state = following
        return self._hello

    def confirm(self, message: Roll, journal_floors: Mapping[str, int]) -> Confirm:
        """Return the answer to S2, with a KEM ciphertext for every later name.

        Args:
            message: everyone's Hello.
            journal_floors: the longest journal ever seen from each site; a shorter one was rolled back.
        """
        following = table.site_next(self.state, table.Heard.ROLL)
        self._check_roll(message, journal_floors)
        transcript = message.transcript(self._hash)
        later = sorted(hello.site for hello in message.hellos if hello.site > self._site)
        peers = {hello.site: hello for hello in message.hellos}
        sent = {site: keys.encapsulate(peers[site].kem, peer=site) for site in later}
        ciphertexts = tuple((site, sent[site][1]) for site in later)
        unsigned = Confirm(self._site, transcript, ciphertexts, bytes(SIGNATURE_BYTES))
        signature = keys.sign(self._identity, unsigned.signed())
        self._peers = {site: hello for site, hello in peers.items() if site != self._site}
        self._kem_secrets = {site: secret for site, (secret, _) in sent.items()}
        self._transcript = transcript
        self._confirm = Confirm(self._site, transcript, ciphertexts, signature)
        self.state = following
        return self._confirm

    def activate(self, message: Seal) -> Ready:
        """Return the answer to S3: every pair's key is agreed, the ephemeral keys are dropped."""
        following = table.site_next(self.state, table.Heard.SEAL)
        confirms = self._check_seal(message)
        ratchets = {site: keys.Ratchet(self._agree(site, confirms[site])) for site in self._peers}
        assert self._fresh is not None  # noqa: S101 - set by hello, in every state that reaches here
        own = keys.self_key(self._fresh.entropy, self._identity, self._transcript)
        self._ratchets, self._own = ratchets, keys.Ratchet(own)
        self._fresh, self._kem_secrets = None, {}
        self.state = following
        return Ready()

    def accept(self, message: Round) -> Accepted:
        """Return the round if every check passes; changes nothing, so that the charge can come first."""
        table.site_next(self.state, table.Heard.ROUND)
        cohort = message.cohort
        present = frozenset(self._peers) | {self._site}
        if list(cohort) != sorted(set(cohort)) or not present.issuperset(cohort) or self._site not in cohort:
            raise _refuse("the cohort is not a sorted part of the session that names this site")
        if len(cohort) < self._policy.study.cohort.quorum:
            raise _refuse("the cohort is below the quorum")
        if not self._counter < message.counter < self._counter + COUNTER_WINDOW:
            raise _refuse("the counter is not ahead of the last one")
        kind = self._policy.plan.kind(message.kind)
        if kind is None and (message.kind != PROBE or message.payload):
            raise _refuse("the kind of sum is not in the study's plan")
        return Accepted(message, message.context(self._transcript), kind)

    def repeated(self, message: Round) -> Masked | None:
        """Return the bytes already sent for this very round, or None: sending them again is free."""
        if self._sent is not None and message.context(self._transcript) == self._sent.context:
            return self._sent
        return None

    def commit(self, accepted: Accepted) -> Seeds:
        """Burn the counter and return the round's secret seeds; the charge has been made durable before."""
        following = table.site_next(self.state, table.Heard.ROUND)
        counter = accepted.round.counter
        assert self._own is not None  # noqa: S101 - set by activate, in every state that reaches here
        self._masks = []
        for ratchet in (self._own, *self._ratchets.values()):
            ratchet.advance(counter)
        for site in accepted.round.cohort:
            if site != self._site:
                ratchet, added = self._ratchets[site], site > self._site
                mask, canary = (ratchet.derive(purpose, accepted.context) for purpose in ("mask", "canary"))
                self._masks.append((mask, canary, added))
        seeds = Seeds(*(self._own.derive(purpose, accepted.context) for purpose in ("sample", "noise")))
        for ratchet in (self._own, *self._ratchets.values()):
            ratchet.advance(counter + 1)
        self._counter, self._sent = counter, None
        self.state = following
        return seeds

    def mask(self, accepted: Accepted, values: npt.NDArray[np.int64]) -> Masked:
        """Return the masked message for the round's noised integer sum; the mask keys are dropped.

        Args:
            accepted: the committed round.
            values: grid values, noise included, shape ``(dim,)``; empty for a probe.
        """
        if accepted.round.counter != self._counter:
            raise LocalProtocolError("only the committed round can be masked")
        following = table.site_next(self.state, table.Heard.MASKED)
        bits = accepted.kind.ring_bits if accepted.kind else _PROBE_BITS
        words = to_words(values, bits)
        canary = to_words(np.ones(CANARY_WORDS, dtype=np.int64), bits)
        apply_masks(words, [(mask, added) for mask, _, added in self._masks])
        apply_masks(canary, [(key, added) for _, key, added in self._masks])
        unsigned = Masked(accepted.context, words.tobytes(), canary.tobytes(), bytes(SIGNATURE_BYTES))
        signature = keys.sign(self._identity, unsigned.signed(self._site))
        self._sent = Masked(unsigned.context, unsigned.words, unsigned.canary, signature)
        self._masks = []
        self.state = following
        return self._sent

    def abandon(self) -> None:
        """Give up a committed round that overran its answer time; its charge stands, its keys are gone."""
        self.state = table.site_next(self.state, table.Heard.ABANDONED)
        self._masks = []

    def _forget(self) -> None:
        for ratchet in getattr(self, "_ratchets", {}).values():
            ratchet.erase()
        self._fresh: Fresh | None = None
        self._hello: Hello | None = None
        self._confirm: Confirm | None = None
        self._peers: dict[str, Hello] = {}
        self._kem_secrets: dict[str, bytes] = {}
        self._transcript = b""
        self._ratchets: dict[str, keys.Ratchet] = {}
        self._own: keys.Ratchet | None = None
        self._masks: list[tuple[bytes, bytes, bool]] = []
        self._counter = 0
        self._sent: Masked | None = None

    def _check_roll(self, message: Roll, journal_floors: Mapping[str, int]) -> None:
        roster = self._policy.study.cohort.keys
        names = [hello.site for hello in message.hellos]
        if len(set(names)) != len(names) or not set(names) <= set(roster):
            raise _refuse("the roll names a site twice or one outside the roster")
        if len(names) < self._policy.study.cohort.quorum:
            raise _refuse("the roll is below the quorum")
        if self._hello not in message.hellos:  # also stops a swap of this site's own keys
            raise _refuse("the roll does not carry this site's own Hello")
        for keys_of in (lambda hello: hello.x25519, lambda hello: hello.kem):
            if len({keys_of(hello) for hello in message.hellos}) != len(names):
                raise _refuse("two sites of the roll share a key")
        for hello in message.hellos:
            assert self._hello is not None  # noqa: S101 - found in the roll above
            if hello.session != self._hello.session:
                raise _refuse("a Hello belongs to another session")
            keys.verify(roster[hello.site], hello.signed(self._hash), hello.signature, peer=hello.site)
            if hello.journal_length < journal_floors.get(hello.site, 0):
                raise _refuse(f"the journal of {hello.site} is shorter than before: it was rolled back")

    def _check_seal(self, message: Seal) -> dict[str, Confirm]:
        confirms = {confirm.site: confirm for confirm in message.confirms}
        if len(confirms) != len(message.confirms) or set(confirms) != set(self._peers) | {self._site}:
            raise _refuse("the seal does not confirm exactly the roll")
        if confirms[self._site] != self._confirm:
            raise _refuse("the seal does not carry this site's own confirmation")
        roster = self._policy.study.cohort.keys
        for site, confirm in confirms.items():
            if confirm.transcript != self._transcript:
                raise _refuse(f"{site} confirmed another transcript")
            keys.verify(roster[site], confirm.signed(), confirm.signature, peer=site)
        return confirms

    def _agree(self, site: str, confirm: Confirm) -> bytes:
        """Return the key shared with a peer: the earlier name encapsulates to the later one."""
        assert self._fresh is not None and self._confirm is not None  # noqa: S101 - set by hello and confirm
        if site > self._site:
            ciphertext, secret = dict(self._confirm.ciphertexts)[site], self._kem_secrets[site]
        else:
            ciphertext = dict(confirm.ciphertexts).get(self._site, b"")
            if not ciphertext:
                raise _refuse(f"{site} sent no KEM ciphertext for this site")
            secret = self._fresh.ephemeral.kem.decapsulate(ciphertext)
        info = "|".join(sorted((site, self._site))).encode() + ciphertext
        ephemeral = self._fresh.ephemeral
        return keys.pair_key(ephemeral, self._peers[site].x25519, secret, self._transcript, info, peer=site)


def _refuse(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(reason, peer="coordinator")
