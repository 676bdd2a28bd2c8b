"""Ten thousand steps with faults: no mask key ever meets two sums, and no sum two masks."""

import copy
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.protocols.federation import Federation, fresh, identity, policy, session_of, study_of

from synthfed.protocols.errors import RemoteProtocolError
from synthfed.protocols.ids import digest
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.secagg import masks, ring, table
from synthfed.protocols.secagg import site as site_module
from synthfed.protocols.secagg.messages import Masked, Open, Roll, Round, Seal
from synthfed.protocols.secagg.site import Seeds, SiteMachine
from synthfed.protocols.sums import PROBE

NAMES = ("a", "b", "c", "d")
QUORUM = 3
STEPS = 10_000
DIM = 5


class Detector:
    """Sees every mask key with what it masks, and every seed, and looks for one that serves twice."""

    def __init__(self) -> None:
        self.site, self.context = "", b""
        self.uses: dict[bytes, dict[str, tuple[bool, bytes]]] = {}
        self.sums: dict[tuple[str, bytes], bytes] = {}
        self.seeds: dict[bytes, tuple[str, str, bytes]] = {}

    def apply_masks(self, words: ring.Words, keys: Sequence[tuple[bytes, bool]], *cipher: Any) -> None:
        plain = words.tobytes()
        if len(plain) >= 4 * DIM and not is_canary(words):
            # Five words of noise: two independent ones are equal with chance 2**-160.
            assert self.sums.setdefault((self.site, plain), self.context) == self.context, "a sum was masked twice"
        for key, added in keys if plain else ():
            use = self.uses.setdefault(key, {}).setdefault(self.site, (added, plain))
            assert use == (added, plain), "a key has masked two different values"
        masks.apply_masks(words, keys, *cipher)

    def see(self, seeds: Seeds) -> None:
        for purpose, seed in (("sample", seeds.sample), ("noise", seeds.noise)):
            owner = (self.site, purpose, self.context)
            assert self.seeds.setdefault(seed, owner) == owner, "a seed serves two purposes, sites or rounds"

    def check_pairs(self) -> None:
        """Check that every key belongs to one pair, which adds it here and subtracts it there, and is no seed."""
        assert self.uses.keys().isdisjoint(self.seeds)
        for uses in self.uses.values():
            assert len(uses) <= 2
            assert [added for _, (added, _) in sorted(uses.items())] in ([True, False], [True], [False])


def is_canary(words: ring.Words) -> bool:
    return len(words) == 8 and bool((words == 1).all())


class FaultyFederation:
    """Four sites, and between them whatever a network, a coordinator and a machine's owner can do."""

    def __init__(self, detector: Detector, seed: int) -> None:
        pinned = policy(study_of(NAMES, quorum=QUORUM), dim=DIM)
        self.detector, self.pinned = detector, pinned
        self.sites = dict(Federation(NAMES, pinned=pinned).sites)
        self.random = random.Random(seed)
        self.counter = 0
        self.handshakes = 0
        self.told: list[Round] = []
        self.sent: dict[tuple[str, bytes], Masked] = {}
        self.snapshots: dict[str, SiteMachine] = {}
        self.happened: Counter[str] = Counter()
        self.shake_hands()

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def shake_hands(self, *, loss: float = 0.0, session: bytes = b"") -> None:
        """Open a session with everyone; with losses some sites are left where their last message put them."""
        self.handshakes += 1
        number = self.handshakes.to_bytes(4, "little")
        opening, hellos = Open(session or digest("test-session", number)), []
        for name in NAMES:
            if not self.chance(loss):
                entropy = digest("test-entropy", name.encode(), number)
                hellos.append(self.sites[name].hello(opening, replace(fresh(name), entropy=entropy)))
        names = [hello.site for hello in hellos]
        if len(names) < QUORUM:
            return
        confirms = [self.sites[name].confirm(Roll(tuple(hellos)), {}) for name in names if not self.chance(loss)]
        if len(confirms) < len(names):
            return
        for name in names:
            if not self.chance(loss):
                self.sites[name].activate(Seal(tuple(confirms)))
        self.counter = 0

    def restart(self, name: str) -> None:
        self.sites[name] = SiteMachine(self.pinned, name, identity(name))
        self.happened["a restart"] += 1

    def is_broken(self) -> bool:
        return any(site.state not in (table.Site.ACTIVE, table.Site.SENT) for site in self.sites.values())

    def step(self) -> None:
        """Do one thing: mostly a round, in which sites may be lost, misled, asked again, killed or given up."""
        name = self.random.choice(NAMES)
        if self.chance(0.3 if self.is_broken() else 0.002):
            how = self.random.choice(("a handshake", "a handshake with losses", "a session's name again"))
            loss, again = (0.1 if "losses" in how else 0.0), (bytes(32) if "name" in how else b"")
            self.shake_hands(loss=loss, session=again)
            self.happened[how] += 1
        elif self.chance(0.002):
            self.restart(name)
        elif self.chance(0.01):
            self.snapshots[name] = image_of(self.sites[name])
        elif self.snapshots and self.chance(0.01):
            name = self.random.choice(list(self.snapshots))
            self.sites[name] = image_of(self.snapshots[name])
            self.happened["a restored snapshot"] += 1
        elif self.told and self.chance(0.1):
            self.hear(name, self.random.choice(self.told[-40:]))
        else:
            self.round()

    def round(self) -> None:
        # The counter may stand, which only a lying coordinator or one that was restored does.
        self.counter += self.random.choice((1, 1, 1, 1, 2, 9, 0))
        message = self.view()
        for name in self.random.sample(NAMES, len(NAMES)):
            if self.chance(0.04):
                self.happened["a lost request"] += 1
                continue
            misled = self.chance(0.04)
            told = self.view() if misled else message
            self.happened["another view"] += misled
            for _ in range(2 if self.chance(0.05) else 1):
                self.hear(name, told)

    def view(self) -> Round:
        cohort = NAMES if self.chance(0.6) else tuple(sorted(self.random.sample(NAMES, QUORUM)))
        kind = self.random.choice(("steps", "steps", "other", "wide", PROBE))
        payload = b"" if kind == PROBE else self.random.choice((b"v", b"w"))
        message = Round(self.counter, cohort, kind, payload)
        self.told.append(message)
        return message

    def hear(self, name: str, message: Round) -> None:
        """Let a site do with a round what its agent does."""
        site, detector = self.sites[name], self.detector
        detector.site, detector.context = name, message.context(site.transcript)
        repeated = site.repeated(message)
        if repeated is not None:
            assert repeated == self.sent[name, detector.context]
            self.happened["a repetition"] += 1
            return
        try:
            accepted = site.accept(message)
        except RemoteProtocolError:
            self.happened["a refusal"] += 1
            return
        seeds = site.commit(accepted)
        detector.see(seeds)
        if self.chance(0.005):
            self.restart(name)
        elif self.chance(0.01):
            site.abandon()
            self.happened["given up before masking"] += 1
        else:
            # The noise is a function of its seed, as in the agent; the sampled sum adds nothing to that here.
            noise = KeyStream(seeds.noise).words(DIM if accepted.kind else 0)
            masked = site.mask(accepted, noise.astype(np.int64))
            assert self.sent.setdefault((name, detector.context), masked) == masked
            self.happened["a masked sum"] += 1
            if self.chance(0.01):
                site.abandon()
                self.happened["given up after masking"] += 1


def image_of(site: SiteMachine) -> SiteMachine:
    """Return a copy of a machine with all its keys, as a snapshot of its memory holds it."""
    image = copy.copy(site)
    if site._session is not None:
        session = session_of(site)
        image._session = replace(
            session,
            ratchets={peer: copy.deepcopy(ratchet) for peer, ratchet in session.ratchets.items()},
            own=copy.deepcopy(session.own),
            masks=list(session.masks),
        )
    return image


def test_over_ten_thousand_faulty_steps_no_key_masks_two_values_and_no_sum_is_masked_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = Detector()
    monkeypatch.setattr(site_module, "apply_masks", detector.apply_masks)
    federation = FaultyFederation(detector, seed=13)
    for _ in range(STEPS):
        federation.step()
    detector.check_pairs()
    assert federation.happened["a masked sum"] > 1.5 * STEPS
    assert len(detector.sums) > STEPS
    rare = {what: count for what, count in federation.happened.items() if count < 10}
    assert (len(federation.happened), rare) == (12, {})


def test_the_detector_finds_a_pad_that_is_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the test above could pass by looking at nothing."""
    detector = Detector()
    words = ring.to_words(np.arange(DIM), 32)
    detector.apply_masks(words.copy(), [(b"k" * 32, True)])
    with pytest.raises(AssertionError, match="two different values"):
        detector.apply_masks(words + np.uint32(1), [(b"k" * 32, True)])
    detector.context = b"another round"
    with pytest.raises(AssertionError, match="a sum was masked twice"):
        detector.apply_masks(words.copy(), [(b"j" * 32, True)])
    detector.site = "b"
    detector.apply_masks(words.copy(), [(b"k" * 32, True)])
    with pytest.raises(AssertionError):
        detector.check_pairs()


@pytest.mark.parametrize("changed", ["nothing", "entropy", "identity"])
def test_seeds_rest_on_the_sessions_secret_entropy_and_on_the_identity_and_on_nothing_public_alone(
    changed: str,
) -> None:
    """The two machines see the very same messages, so that only a secret can tell their seeds apart."""
    federation = Federation(NAMES, pinned=policy(study_of(NAMES, quorum=QUORUM)))
    confirms = federation.confirms(federation.roll())
    site = federation.sites["a"]
    twin = image_of(site)
    fresh_keys = session_of(twin).fresh
    assert fresh_keys is not None
    if changed == "entropy":
        session_of(twin).fresh = replace(fresh_keys, entropy=bytes(32))
    if changed == "identity":
        twin._identity = identity("z")
    found = []
    for machine in (site, twin):
        machine.activate(Seal(tuple(confirms.values())))
        found.append(machine.commit(machine.accept(Round(1, NAMES, "steps", b""))))
    one, other = found
    assert (one.sample == other.sample) == (one.noise == other.noise) == (changed == "nothing")
