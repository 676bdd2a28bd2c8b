"""An agent that is forked, or restored from a snapshot of machine and disk: it repeats itself, or is fresh."""

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.client.federation import (
    AMPLE,
    UNITS,
    Federation,
    Identities,
    answered,
    decoded,
    is_sum,
    join_at,
    round_secrets,
)

from synthfed.client.gate import Gate
from synthfed.client.vault import Ledger
from synthfed.plugins.api import PrivatePart
from synthfed.protocols.errors import PrivacyError
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.secagg.session import Seeds
from synthfed.protocols.sums import SCALE_BITS

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

COHORT = ("a", "b", "c")
PAYLOADS = tuple(np.full(10, value, dtype="<f4").tobytes() for value in (0.5, 0.25))


def in_a_child(work: Callable[[], bytes]) -> bytes:
    """Return what a forked child of this process computes."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(work())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        result = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return result


def frame(payload: bytes, counter: int = 1, kind: str = "critic") -> bytes:
    return messages.encode(messages.Round(counter, COHORT, kind, payload), 1)


def draws(seeds: Seeds) -> bytes:
    """Return which units a round's seeds take, and its noise."""
    coins, noise = KeyStream(seeds.sample).words(UNITS), discrete_gaussian(KeyStream(seeds.noise), 64, SCALE_BITS)
    return bytes(coins.tobytes() + noise.tobytes())


def secrets_of(federation: Federation, payload: bytes) -> bytes:
    seeds, masks = round_secrets(federation.a.machine, messages.Round(1, COHORT, "critic", payload))
    return draws(seeds) + b"".join(masks.values())


def pieces(joined: bytes) -> set[bytes]:
    """Return the parts of sixteen bytes: two values of noise, which alone are alike by chance too often."""
    return {joined[start : start + 16] for start in range(0, len(joined) - 15, 16)}


def hello_of(federation: Federation) -> messages.Hello:
    hello = federation.ask("a", messages.Open(b"n" * 32))
    assert isinstance(hello, messages.Hello)
    return hello


def test_a_child_and_its_parent_that_open_the_same_session_share_no_key_no_coin_and_no_noise(
    federation: Federation,
) -> None:
    """Everything of a session hangs on bytes that each process asks the operating system for."""

    def session() -> bytes:
        fresh = federation.a._fresh()
        hello = hello_of(federation)
        federation.shake_hands(b"n" * 32)
        public = hello.x25519 + hello.kem[:64] + hello.nonce
        return fresh.entropy + fresh.nonce + public + secrets_of(federation, PAYLOADS[0])

    theirs, again, ours = in_a_child(session), in_a_child(session), session()
    assert len(theirs) == len(again) == len(ours)
    assert not pieces(theirs) & pieces(ours)
    assert not pieces(theirs) & pieces(again)


def test_a_fork_of_an_agent_and_the_agent_cannot_both_use_a_counter_as_they_share_one_journal(
    federation: Federation, tmp_path: Path, policy: Policy, identities: Identities
) -> None:
    """The fork answers first; the other then finds its session in the journal, before it draws a coin."""

    def first() -> bytes:
        return answered(federation.a, frame(PAYLOADS[0])).frame

    assert isinstance(messages.decode(in_a_child(first))[0], messages.Masked)
    state = federation.a.machine.state
    with pytest.raises(PrivacyError, match="a copy of this agent runs; stop both"):
        federation.a.answer(frame(PAYLOADS[1]))
    assert federation.a.machine.state is state
    with pytest.raises(
        PrivacyError, match="a copy of this agent runs; stop both"
    ):  # nor repeat what the fork was asked
        federation.a.answer(frame(PAYLOADS[0]))
    with closing(Ledger(tmp_path / "a.db", identities["a"])) as journal:
        assert journal.count(policy.study.hash, "critic") == 1


@pytest.fixture
def snapshot(
    tmp_path: Path, policy: Policy, identities: Identities, tiny: PrivatePart
) -> Callable[[bytes], messages.Masked]:
    """Return a function that restores one image of machine and disk, just after a handshake, and asks it a round."""
    image = tmp_path / "image"
    image.mkdir()
    with ExitStack() as stack:
        federation = join_at(stack, image, policy, identities, tiny)()
    restored = iter(range(100))

    def ask(sent: bytes) -> bytes:
        folder = shutil.copytree(image, tmp_path / f"restored-{next(restored)}")

        def work() -> bytes:
            ledger = Ledger(folder / "a.db", identities["a"])
            return answered(replace(federation.a, ledger=ledger, gate=Gate(policy, AMPLE, ledger)), sent).frame

        return in_a_child(work)

    def answer(sent: bytes) -> messages.Masked:
        masked = messages.decode(ask(sent))[0]
        assert isinstance(masked, messages.Masked)
        return masked

    return answer


def test_a_snapshot_that_is_asked_the_same_round_twice_gives_identical_bytes(
    snapshot: Callable[[bytes], messages.Masked],
) -> None:
    assert snapshot(frame(PAYLOADS[0])) == snapshot(frame(PAYLOADS[0]))


@pytest.mark.parametrize(
    "other",
    [frame(PAYLOADS[1]), frame(PAYLOADS[0], counter=2), frame(b"", kind="count")],
    ids=["payload", "counter", "kind"],
)
def test_a_snapshot_that_is_asked_another_round_uses_no_mask_and_no_noise_again(
    snapshot: Callable[[bytes], messages.Masked], other: bytes
) -> None:
    """Were a mask used again, canaries would not differ, and words by the difference of two sums.

    Eight uniform words or more are all that near to each other in 2**-56 of all runs.
    """
    one, two = snapshot(frame(PAYLOADS[0])), snapshot(other)
    assert one.context != two.context
    pairs = [(one.canary, two.canary), (one.words, two.words)]
    for first, second in pairs if len(one.words) == len(two.words) else pairs[:1]:
        difference = np.frombuffer(first, "<u4") - np.frombuffer(second, "<u4")
        assert len(difference) >= 8
        assert np.abs(difference.view("<i4").astype(np.int64)).max() > 2**24


def test_a_forked_agent_that_goes_on_alone_answers_as_the_agent_would_have(federation: Federation) -> None:
    """The measure itself: a fork works, so that a refusal above is no accident of forking."""

    def rounds() -> bytes:
        replies = [answered(federation.a, frame(PAYLOADS[0], counter)) for counter in (1, 2)]
        assert all(is_sum(reply) for reply in replies)
        assert federation.a.ledger.length == 2
        return b"".join(bytes(type(decoded(reply)).__name__, "ascii") for reply in replies)

    assert in_a_child(rounds) == b"MaskedMasked"
