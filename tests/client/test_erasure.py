"""What an agent still holds of a round once it has answered it: neither its keys nor its sum."""

import gc
import hashlib
import os
import re
import types
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from tests.client.federation import (
    Clock,
    Federation,
    Join,
    Plugin,
    answered,
    decoded,
    is_sum,
    opened,
    round_secrets,
)

from synthfed.client.train import clipped_sum, read_payload
from synthfed.plugins.api import Array, PrivatePart
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.privacy.plan import box
from synthfed.protocols.secagg import messages, ring
from synthfed.protocols.secagg.keys import Ratchet
from synthfed.protocols.secagg.messages import Code, Refusal
from synthfed.protocols.secagg.site import SiteMachine
from synthfed.protocols.sums import SCALE_BITS

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

UNFOLLOWED = (type, types.ModuleType, types.FunctionType, types.FrameType, types.CodeType)


def fingerprint(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def ratchets_of(machine: SiteMachine) -> list[bytes]:
    session = machine._session
    assert session is not None
    return [bytes(ratchet._key) for ratchet in (session.own, *session.ratchets.values())]


def secrets_of(machine: SiteMachine, frame: bytes, dim: int) -> dict[bytes, str]:
    """Return fingerprints of all that a coming round must not leave behind; the secrets themselves are dropped."""
    message, _ = messages.decode(frame)
    assert isinstance(message, messages.Round)
    seeds, masks = round_secrets(machine, message)
    noise = discrete_gaussian(KeyStream(seeds.noise), dim, SCALE_BITS)
    passed = ratchets_of(machine)
    for key in ratchets_of(machine):
        ratchet = Ratchet(key)
        ratchet.advance(message.counter)
        passed.append(bytes(ratchet._key))
    return {
        **{fingerprint(key): "a key that was ratcheted away" for key in passed},
        **{fingerprint(key): "a mask key" for key in masks.values()},
        fingerprint(seeds.sample): "the seed of the coins",
        fingerprint(seeds.noise): "the seed of the noise",
        fingerprint(noise.tobytes()): "the noise",
    }


def contents(each: Any) -> bytes | None:
    """Return the bytes that an object holds, if it is one that holds bytes."""
    kind = type(each)  # not `isinstance`: some objects run code when they are asked for their class
    if kind is bytes or kind is bytearray:
        return bytes(each)
    if kind is np.ndarray:
        return bytes(each.tobytes())
    if kind is torch.Tensor and each.dtype in (torch.float32, torch.float64, torch.int64) and each.device.type == "cpu":
        return bytes(each.detach().numpy().tobytes())
    return None


def reachable(*roots: object) -> Iterator[object]:
    """Yield every object that can be reached from some, but not through code."""
    waiting = list(roots)
    seen = {id(root) for root in roots}
    while waiting:
        each = waiting.pop()
        yield each
        for other in gc.get_referents(each):
            if id(other) not in seen and not issubclass(type(other), UNFOLLOWED):
                seen.add(id(other))
                waiting.append(other)


def alive() -> Iterator[object]:
    """Yield every object of this process: what the garbage collector knows, and what can be reached from it."""
    gc.collect()
    return reachable(*gc.get_objects())


def leave_alone(federation: Federation) -> None:
    """Close the sessions of the other sites, which live in this process and share keys with the first."""
    for site in ("b", "c"):
        federation.agents[site].machine.close()


def found(objects: Iterator[object], secrets: dict[bytes, str]) -> set[str]:
    held = (contents(each) for each in objects)
    return {secrets[mark] for content in held if content for mark in [fingerprint(content)] if mark in secrets}


@pytest.mark.parametrize("kind", ["count", "critic"])
def test_after_its_answer_an_agent_holds_no_mask_noise_or_sampling_key_and_no_sum_of_the_round(
    join: Join, tiny: PrivatePart, kind: str
) -> None:
    """Nothing that the agent reaches, and no object of the whole process; during the step the keys are found."""
    during: list[set[str]] = []
    secrets: dict[bytes, str] = {}

    def look(_: Array) -> None:
        during.append(found(alive(), secrets))

    federation = join(private=Plugin(tiny, look))
    frame = federation.round(kind)
    each = federation.policy.plan.kind(kind)
    assert each is not None
    secrets |= secrets_of(federation.a.machine, frame, each.sum.dim)
    reply = answered(federation.a, frame)
    assert is_sum(reply)
    leave_alone(federation)
    assert during
    assert during[0] >= {"a mask key", "the seed of the coins", "the seed of the noise"}
    assert found(reachable(federation.a), secrets) == set()
    assert found(alive(), secrets) == set()


def test_after_its_answer_an_agent_reaches_no_sum_without_masks_or_without_noise(federation: Federation) -> None:
    frame = federation.round("count")
    answer = opened(federation.a, "a", frame)
    kind = federation.policy.plan.kind("count")
    assert kind is not None
    plain = {
        name: [values.tobytes(), ring.to_words(values, kind.ring_bits).tobytes(), values.astype(float).tobytes()]
        for name, values in (("unmasked", answer.grid + answer.noise), ("sum", answer.grid), ("noise", answer.noise))
    }
    held = b"|".join(filter(None, map(contents, reachable(federation.a))))
    for name, forms in plain.items():
        assert not any(form in held for form in forms), name
    masked = decoded(answer.reply)
    assert isinstance(masked, messages.Masked)
    assert masked.words in held  # what was sent is kept, so that it can be sent again


@pytest.mark.parametrize("end", ["told", "the next round", "closed", "another session"])
def test_the_canary_keys_of_a_round_are_kept_until_they_are_told_or_it_is_over_and_then_gone(
    federation: Federation, end: str
) -> None:
    frame = federation.round("count")
    message, _ = messages.decode(frame)
    assert isinstance(message, messages.Round)
    machine = federation.a.machine
    assert machine._session is not None
    context = message.context(machine.transcript)
    ratchets = deepcopy(machine._session.ratchets)
    for ratchet in ratchets.values():
        ratchet.advance(message.counter)
    secrets = {fingerprint(ratchet.derive("canary", context)): peer for peer, ratchet in ratchets.items()}
    assert is_sum(answered(federation.a, frame))
    federation.aggregator.give_up()
    assert found(reachable(federation.a), secrets) == {"b", "c"}
    if end == "told":
        assert isinstance(federation.ask("a", messages.Reveal(context)), messages.Revealed)
    elif end == "the next round":
        federation.reply("count")
    elif end == "closed":
        assert federation.a.answer(b"no request") is None
    else:
        federation.shake_hands(b"m" * 32)
    assert found(reachable(federation.a), secrets) == set()
    del ratchets
    leave_alone(federation)
    assert found(alive(), secrets) == set()


@pytest.mark.parametrize("end", ["abandoned", "closed", "another session"])
def test_an_abandoned_round_a_closed_session_and_a_new_one_leave_no_key_behind_either(
    join: Join, tiny: PrivatePart, end: str
) -> None:
    clock = Clock()

    def dawdle(_: Array) -> None:
        clock.now += 100.0 if end == "abandoned" else 0.0

    federation = join(private=Plugin(tiny, dawdle), clock=clock)
    frame = federation.round("count")
    federation.aggregator.give_up()
    secrets = secrets_of(federation.a.machine, frame, 2)
    reply = answered(federation.a, frame)
    assert (decoded(reply) == Refusal(Code.ABANDONED)) == (end == "abandoned")
    if end != "abandoned":
        secrets |= {fingerprint(key): "a key of the session" for key in ratchets_of(federation.a.machine)}
        assert "a key of the session" in found(reachable(federation.a), secrets)
    if end == "closed":
        assert federation.a.answer(b"no request") is None
    if end == "another session":
        federation.shake_hands(b"m" * 32)
    else:
        leave_alone(federation)
    assert found(alive(), secrets) == set()


def memory_of(process: int) -> Iterator[bytes]:
    """Yield the contents of a process's writable memory."""
    with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        for line in maps:
            start, end = (int(each, 16) for each in re.split("[- ]", line)[:2])
            if line.split()[1].startswith("rw"):
                memory.seek(start)
                yield memory.read(end - start)


def copies(process: int, wanted: dict[str, bytes]) -> dict[str, int]:
    """Return how often each content stands in a process's memory."""
    counts = dict.fromkeys(wanted, 0)
    for part in memory_of(process):
        for name, content in wanted.items():
            counts[name] += part.count(content)
    return counts


def after_an_answer(federation: Federation, frame: bytes, look: Callable[[int], None]) -> None:
    """Let a child answer a round, and look at its memory while it waits; this process's agent stays behind."""
    done_reader, done_writer = os.pipe()
    go_reader, go_writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            federation.a.answer(frame)
            os.write(done_writer, b"!")
            os.read(go_reader, 1)
        finally:
            os._exit(0)
    try:
        os.read(done_reader, 1)
        look(child)
    finally:
        os.write(go_writer, b"!")
        os.waitpid(child, 0)
        for end in (done_reader, done_writer, go_reader, go_writer):
            os.close(end)


def test_a_scan_of_the_agents_whole_memory_finds_its_next_keys_but_no_unmasked_words(
    federation: Federation, record_property: Callable[[str, object], None]
) -> None:
    """Bytes that Python has freed and not overwritten are counted, too, and reported; no program can erase those.

    The secrets are derived here from the state before the fork, so the child never sees this process's copies.
    """
    frame = federation.round("critic")
    message, _ = messages.decode(frame)
    assert isinstance(message, messages.Round)
    kind = federation.policy.plan.kind("critic")
    assert kind is not None
    counts: dict[str, int] = {}

    def look(child: int) -> None:
        seeds, masks = round_secrets(federation.a.machine, message)
        batch = federation.a.data.draw(KeyStream(seeds.sample), kind.sum.sample_rate, kind.slots)
        total = clipped_sum(federation.a.private, kind, read_payload(kind, message.payload), batch)
        grid = ring.to_grid(total, kind.grid_step(2), box(federation.policy.study, 32))
        noise = discrete_gaussian(KeyStream(seeds.noise), kind.sum.dim, SCALE_BITS)
        words = ring.to_words(grid + noise, 32).tobytes()
        federation.a.machine.commit(federation.a.machine.accept(message))
        wanted = {f"next key {place}": key for place, key in enumerate(ratchets_of(federation.a.machine))}
        wanted |= {f"mask key of {peer}": key for peer, key in masks.items()}
        counts.update(copies(child, wanted | {"coins": seeds.sample, "noise": seeds.noise, "unmasked words": words}))

    try:
        after_an_answer(federation, frame, look)
    except PermissionError:
        pytest.skip("this kernel does not let a process read its child's memory")
    record_property("copies in memory", counts)
    assert all(count for name, count in counts.items() if name.startswith("next key"))
    assert counts["unmasked words"] == 0
