"""A site's half of secure aggregation: a state machine over messages and keys.

Never sees a record: it checks rounds, hands out seeds, and masks the finished integer sum.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..errors import LocalProtocolError, RemoteProtocolError
from ..sums import PROBE, Kind
from . import keys, table
from .masks import apply_masks
from .messages import (
    CANARY_WORDS,
    PROBE_BITS,
    SIGNATURE_BYTES,
    Confirm,
    Hello,
    Masked,
    Open,
    Ready,
    Roll,
    Round,
    Seal,
)
from .policy import Policy
from .ring import to_words

COUNTER_WINDOW: Final = 2**10  # a gap is walked key by key; the coordinator must not buy time with it
JOURNAL_STRIDE: Final = 2**24
"""By how many charges a journal may have grown since it was last seen (docs/adr/0013): 167 of the longest studies."""


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


@dataclass(slots=True)
class _Session:
    """Everything that one session knows; dropped whole when the next one opens."""

    fresh: Fresh | None  # None once the shared keys are agreed
    hello: Hello
    transcript: bytes = b""
    confirm: Confirm | None = None
    peers: dict[str, Hello] = field(default_factory=dict)
    encapsulated: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)  # secret and ciphertext
    ratchets: dict[str, keys.Ratchet] = field(default_factory=dict)
    own: keys.Ratchet = field(default_factory=lambda: keys.Ratchet(b""))
    counter: int = 0
    context: bytes = b""  # of the committed round
    masks: list[tuple[bytes, bytes, bool]] = field(default_factory=list)
    sent: Masked | None = None


class SiteMachine:
    """One site in one session after another; every failed check leaves the state as it was."""

    def __init__(self, policy: Policy, site: str, identity: Ed25519PrivateKey) -> None:
        """Start idle."""
        self._policy = policy
        self._hash = policy.hash
        self._suite = policy.suite
        self._site = site
        self._identity = identity
        self._session: _Session | None = None
        self.state = table.Site.IDLE

    @property
    def transcript(self) -> bytes:
        """The hash of the session's agreed Hellos; empty before S2."""
        return self._session.transcript if self._session else b""

    def hello(self, message: Open, fresh: Fresh) -> Hello:
        """Return the answer to S1; any earlier session's keys are forgotten."""
        following = table.site_next(self.state, table.Heard.OPEN)
        x25519, kem = fresh.ephemeral.public
        if not self._suite.fits(kem):
            raise LocalProtocolError("fresh keys must be those of the study's key agreement")
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
        hello = replace(unsigned, signature=keys.sign(self._identity, unsigned.signed(self._hash)))
        self._forget()
        self._session = _Session(fresh, hello)
        self.state = following
        return hello

    def confirm(self, message: Roll, journal_floors: Mapping[str, int]) -> Confirm:
        """Return the answer to S2, with a KEM ciphertext for every later name where the suite has them.

        Args:
            message: everyone's Hello.
            journal_floors: the longest journal ever seen from each site, 0 from one never met. A shorter one was
                rolled back, and one that is longer by more than ``JOURNAL_STRIDE`` is no ledger's.
        """
        following = table.site_next(self.state, table.Heard.ROLL)
        session = self._open_session()
        self._check_roll(session, message, journal_floors)
        transcript = message.transcript(self._hash)
        peers = {hello.site: hello for hello in message.hellos if hello.site != self._site}
        receivers = self._suite.receivers(self._site, peers)
        sent = {site: keys.encapsulate(peers[site].kem, peer=site) for site in receivers}
        ciphertexts = tuple((site, ciphertext) for site, (_, ciphertext) in sent.items())
        unsigned = Confirm(self._site, transcript, ciphertexts, bytes(SIGNATURE_BYTES))
        confirm = replace(unsigned, signature=keys.sign(self._identity, unsigned.signed()))
        session.peers, session.transcript, session.confirm, session.encapsulated = peers, transcript, confirm, sent
        self.state = following
        return confirm

    def activate(self, message: Seal) -> Ready:
        """Return the answer to S3: every pair's key is agreed, the ephemeral keys are dropped."""
        following = table.site_next(self.state, table.Heard.SEAL)
        session = self._open_session()
        fresh = session.fresh
        if fresh is None:
            raise LocalProtocolError("a session's ephemeral keys are gone before they were used")
        confirms = self._check_seal(session, message)
        ratchets = {site: keys.Ratchet(self._agree(session, fresh, confirms[site])) for site in session.peers}
        session.ratchets = ratchets
        session.own = keys.Ratchet(keys.self_key(fresh.entropy, self._identity, session.transcript))
        session.fresh, session.encapsulated = None, {}
        self.state = following
        return Ready()

    def accept(self, message: Round) -> Accepted:
        """Return the round if every check passes; changes nothing, so that the charge can come first."""
        table.site_next(self.state, table.Heard.ROUND)
        session = self._open_session()
        cohort, members = message.cohort, {*session.peers, self._site}
        if list(cohort) != sorted(set(cohort)) or not members.issuperset(cohort) or self._site not in cohort:
            raise _refuse("the cohort is not a sorted part of the session that names this site")
        if len(cohort) < self._policy.study.cohort.quorum:
            raise _refuse("the cohort is below the quorum")
        if not session.counter < message.counter < session.counter + COUNTER_WINDOW:
            raise _refuse("the counter is not ahead of the last one")
        kind = self._policy.plan.kind(message.kind)
        if kind is None and (message.kind != PROBE or message.payload):
            raise _refuse("the kind of sum is not in the study's plan")
        return Accepted(message, message.context(session.transcript), kind)

    def repeated(self, message: Round) -> Masked | None:
        """Return the bytes already sent for this very round, or None: sending them again is free."""
        session = self._session
        if session is None or session.sent is None or message.counter != session.counter:
            return None  # without hashing a long payload
        return session.sent if message.context(session.transcript) == session.context else None

    def commit(self, accepted: Accepted) -> Seeds:
        """Burn the counter and return the round's secret seeds; the charge has been made durable before."""
        following = table.site_next(self.state, table.Heard.ROUND)
        session, counter, context = self._open_session(), accepted.round.counter, accepted.context
        for ratchet in (session.own, *session.ratchets.values()):
            ratchet.advance(counter)
        session.masks = [
            (ratchet.derive("mask", context), ratchet.derive("canary", context), site > self._site)
            for site, ratchet in session.ratchets.items()
            if site in accepted.round.cohort and self._policy.is_masked
        ]
        seeds = Seeds(session.own.derive("sample", context), session.own.derive("noise", context))
        for ratchet in (session.own, *session.ratchets.values()):
            ratchet.advance(counter + 1)
        session.counter, session.context, session.sent = counter, context, None
        self.state = following
        return seeds

    def mask(self, accepted: Accepted, values: npt.NDArray[np.int64]) -> Masked:
        """Return the masked message for the round's noised integer sum; the mask keys are dropped.

        Args:
            accepted: the committed round.
            values: grid values, noise included, shape ``(dim,)``; empty for a probe.
        """
        following = table.site_next(self.state, table.Heard.MASKED)
        session = self._open_session()
        if accepted.context != session.context:
            raise LocalProtocolError("only the committed round can be masked")
        bits = accepted.kind.ring_bits if accepted.kind else PROBE_BITS
        words = to_words(values, bits)
        canary = to_words(np.ones(CANARY_WORDS, dtype=np.int64), bits)
        cipher = self._policy.study.aggregation.mask_cipher
        apply_masks(words, [(mask, added) for mask, _, added in session.masks], cipher)
        apply_masks(canary, [(key, added) for _, key, added in session.masks], cipher)
        unsigned = Masked(accepted.context, words.tobytes(), canary.tobytes(), bytes(SIGNATURE_BYTES))
        masked = replace(unsigned, signature=keys.sign(self._identity, unsigned.signed(self._site)))
        session.masks, session.sent = [], masked
        self.state = following
        return masked

    def abandon(self) -> None:
        """Give up a round that overran its answer time; its charge stands, keys and masked sum are gone."""
        self.state = table.site_next(self.state, table.Heard.ABANDONED)
        session = self._open_session()
        session.masks, session.sent = [], None

    def close(self) -> None:
        """End the session and forget its keys: something came that is no request."""
        self.state = table.site_next(self.state, table.Heard.UNKNOWN)
        self._forget()

    def _open_session(self) -> _Session:
        if self._session is None:
            raise LocalProtocolError("no session is open")
        return self._session

    def _forget(self) -> None:
        if self._session is not None:
            for ratchet in (self._session.own, *self._session.ratchets.values()):
                ratchet.erase()
        self._session = None

    def _check_roll(self, session: _Session, message: Roll, journal_floors: Mapping[str, int]) -> None:
        roster, hellos = self._policy.study.cohort.keys, message.hellos
        names = {hello.site for hello in hellos}
        if len(names) != len(hellos) or not names <= set(roster):
            raise _refuse("the roll names a site twice or one outside the roster")
        if len(names) < self._policy.study.cohort.quorum:
            raise _refuse("the roll is below the quorum")
        if session.hello not in hellos:  # also stops a swap of this site's own keys
            raise _refuse("the roll does not carry this site's own Hello")
        kem_keys = [hello.kem for hello in hellos if hello.kem]
        if len({hello.x25519 for hello in hellos}) != len(names) or len(set(kem_keys)) != len(kem_keys):
            raise _refuse("two sites of the roll share a key")
        for hello in hellos:
            if hello.session != session.hello.session:
                raise _refuse("a Hello belongs to another session")
            keys.verify(roster[hello.site], hello.signed(self._hash), hello.signature, peer=hello.site)
            if not self._suite.fits(hello.kem):  # a downgrade, or keys that nobody asked for
                raise _refuse("a Hello has not the keys of the study's key agreement")
            grown = hello.journal_length - journal_floors.get(hello.site, 0)
            if grown < 0:
                raise _refuse(f"the journal of {hello.site} is shorter than before: it was rolled back")
            if grown > JOURNAL_STRIDE:  # once remembered, no true length would ever reach it
                raise _refuse(f"the journal of {hello.site} is longer than before by more than a ledger can grow")

    def _check_seal(self, session: _Session, message: Seal) -> dict[str, Confirm]:
        confirms = {confirm.site: confirm for confirm in message.confirms}
        if len(confirms) != len(message.confirms) or set(confirms) != {*session.peers, self._site}:
            raise _refuse("the seal does not confirm exactly the roll")
        if confirms[self._site] != session.confirm:
            raise _refuse("the seal does not carry this site's own confirmation")
        roster = self._policy.study.cohort.keys
        for site, confirm in confirms.items():
            if confirm.transcript != session.transcript:
                raise _refuse(f"{site} confirmed another transcript")
            keys.verify(roster[site], confirm.signed(), confirm.signature, peer=site)
            if confirm.receivers != self._suite.receivers(site, confirms):
                raise _refuse(f"the ciphertexts of {site} are not those of the study's key agreement")
        return confirms

    def _agree(self, session: _Session, fresh: Fresh, confirm: Confirm) -> bytes:
        """Return the key shared with a peer: where there is a KEM, the earlier name encapsulates to the later one."""
        peer = confirm.site
        secret, ciphertext = session.encapsulated.get(peer, (b"", b""))
        if not secret and self._suite.has_kem:
            ciphertext = dict(confirm.ciphertexts)[self._site]
            secret = keys.decapsulate(fresh.ephemeral, ciphertext, peer=peer)
        info = "|".join(sorted((peer, self._site))).encode() + ciphertext
        x25519 = session.peers[peer].x25519
        return keys.pair_key(self._suite, fresh.ephemeral, x25519, secret, session.transcript, info, peer=peer)


def _refuse(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError(reason, peer="coordinator")
