"""A small fuzzing run of every decoder, and that the fuzzer would find what it looks for."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fuzzing import decoders as wire
from tests.fuzzing import documents, fuzz, limits, mutation
from tests.fuzzing.decoder import Decoder, promise
from tests.fuzzing.decoders import decoders

from synthfed.protocols.errors import RemoteProtocolError
from synthfed.protocols.wire import Frame

ROOT = Path(__file__).parents[2]
EVERY = {decoder.name: decoder for decoder in decoders()}


def damaged(name: str, **changes: object) -> bytes:
    """Return a checkpoint whose header says something else of one array."""
    size = int.from_bytes(documents.CHECKPOINT[:8], "little")
    array = json.loads(documents.CHECKPOINT[8 : 8 + size])[name] | changes
    return documents.with_header(documents.CHECKPOINT, {name: array})


def counted(counts: str) -> bytes:
    """Return a checkpoint with a right checksum over other counts."""
    return documents.checkpoint(documents.STATE, counts)


FOUND: dict[tuple[str, str], bytes] = {
    # errors.describe: a wrong entry of a list in a list
    ("evidence", "IndexError"): documents.EVIDENCE.replace(b"[2, 2.25]", b"[[2, 2.25]]"),
    # store.Run.load: get_tensor raises more than SafetensorError
    ("checkpoint", "AttributeError"): damaged("empty", dtype="F4", shape=[0]),
    ("checkpoint", "TypeError"): damaged("empty", dtype="BF16", shape=[0]),
    ("checkpoint", "ValueError"): damaged("empty", shape=[0] + [2] * 60),
    # store.Run.load: counts are taken as they are once the checksum, which is no signature, is right
    ("checkpoint counts", "KeyError"): counted("{}"),
    ("checkpoint counts", "TypeError"): counted("[]"),
    ("checkpoint counts", "JSONDecodeError"): counted("{"),
    ("checkpoint counts", "AttributeError"): counted(json.dumps(documents.TALLY | {"charged": "north"})),
    ("checkpoint counts", "ValueError"): counted("9" * 5000),
    ("checkpoint counts", "RecursionError"): counted("[" * 100_000),
}
"""Undeclared errors that the fuzzer found and that were mended, each with an input that showed it."""


def test_twenty_thousand_cases_find_nothing_new(tmp_path: Path) -> None:
    out = tmp_path / "fuzz.json"
    program, options = ROOT / "tests/fuzzing/fuzz.py", ("--cases", "20000", "--seed", "1", "--out", out)
    done = subprocess.run([sys.executable, program, *options], capture_output=True, text=True, check=False)
    written: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    found = {(name, fault) for name, outcome in written["decoders"].items() for fault in outcome["faults"]}
    assert not found, done.stderr
    assert written["cases"] >= 20_000
    assert written["resident_growth_bytes"] <= limits.RESIDENT_BYTES
    for name, outcome in written["decoders"].items():
        assert outcome["accepted"] > 0, f"no case of {name} reaches its end"
        is_refused = outcome["refused"] or outcome["faults"]
        assert is_refused or not EVERY[name].declared, f"no case of {name} is refused"


@pytest.mark.parametrize("known", FOUND)
def test_an_input_that_was_found_is_refused_with_a_declared_error(known: tuple[str, str]) -> None:
    outcome = fuzz.Outcome()
    fuzz.run_case(EVERY[known[0]], FOUND[known], outcome, "found")
    assert not outcome.faults


def test_a_case_comes_again_for_its_seed() -> None:
    for decoder in EVERY.values():
        assert decoder.make(random.Random("seed")) == decoder.make(random.Random("seed"))


def test_the_seeds_themselves_are_accepted() -> None:
    for frame in wire.FRAMES:
        wire.run_message(frame)
        wire.run_stream(frame)
    for study in documents.STUDIES:
        documents.run_study(study)
    documents.run_invitation(documents.INVITATION)
    documents.run_enrolment(documents.ENROLMENT)
    documents.run_evidence(documents.EVIDENCE)
    EVERY["checkpoint"].run(documents.CHECKPOINT)


def test_fields_are_where_the_product_reads_them() -> None:
    rng = random.Random(0)
    for data in wire.FRAMES:
        frame = Frame.decode(data)
        rejoined = b"".join(
            content if form == "number" else len(content).to_bytes(4, "little") + content
            for form, content in mutation.fields_of(frame)
        )
        assert rejoined == frame.body
        assert mutation.mutated_frame(rng, data, wire.FRAMES)


def crash(_data: bytes) -> None:
    raise KeyError("planted")


def hang(_data: bytes) -> None:
    while True:
        pass


def swallow_and_hang(_data: bytes) -> None:
    try:
        hang(b"")
    except Exception:  # noqa: BLE001 - as a careless decoder would
        return


def break_promise(data: bytes) -> None:
    promise(len(data) < 2, "too long")


def refuse(_data: bytes) -> None:
    raise RemoteProtocolError("planted")


@pytest.mark.parametrize(
    ("run", "fault"),
    [
        (crash, "KeyError"),
        (hang, "TooSlow"),
        (swallow_and_hang, "TooSlow"),
        (break_promise, "BrokenPromise: too long"),
    ],
)
def test_the_fuzzer_finds_a_planted_fault(run: Callable[[bytes], object], fault: str) -> None:
    planted = Decoder("planted", 1, lambda _: b"\x00\x01", run, (RemoteProtocolError,))
    outcome = fuzz.fuzz([planted], 1, seed=0)["planted"]
    assert outcome.faults == {fault: 1}
    assert outcome.found[0]["input"] == "0001"


def test_declared_errors_are_no_faults() -> None:
    planted = Decoder("planted", 1, lambda _: b"", refuse, (RemoteProtocolError,))
    outcome = fuzz.fuzz([planted], 10, seed=0)["planted"]
    assert (outcome.cases, outcome.accepted, dict(outcome.refused), dict(outcome.faults)) == (
        *(10, 0),
        {"RemoteProtocolError": 10},
        {},
    )


def test_memory_beyond_the_limit_is_an_error() -> None:
    program = (
        "from tests.fuzzing import limits\n"
        "limits.limit_memory()\n"
        "try:\n    bytearray(limits.MEMORY_BYTES + 2**26)\n"
        "except MemoryError:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stderr
