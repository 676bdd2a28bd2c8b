"""Feeds mutated bytes to every decoder; fails on an undeclared error, a broken promise, a slow case, too much memory.

A seeded mutator that knows the formats (`mutation.py`), without coverage feedback. atheris (3.0.0, which has wheels for
Python 3.11) was considered: its libFuzzer sees no branch inside pydantic-core, safetensors or OpenSSL, where most of
the work is, ends the process at the first finding, runs on Linux only, and is one more dependency of 35 MB. What
feedback would find in our own thin layers, structure finds here: most cases pass the header, and fail, or pass, late.

    python tests/fuzzing/fuzz.py --cases 1000000 --seed 1 --out fuzz.json
    python tests/fuzzing/fuzz.py --only study --input 666f726d6174     # one case again
"""

import argparse
import json
import platform
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzzing.decoder import BrokenPromise, Decoder
from tests.fuzzing.decoders import decoders
from tests.fuzzing.limits import (
    MEMORY_BYTES,
    RESIDENT_BYTES,
    SLOWEST_S,
    TooSlow,
    case_time,
    limit_memory,
    peak_bytes,
    signals,
)

MOST_FOUND: Final = 5  # findings kept per decoder and error


@dataclass(slots=True)
class Outcome:
    """What one decoder made of its cases.

    Attributes:
        cases: how many.
        accepted: how many were decoded.
        refused: errors that were declared, by class.
        faults: findings, by what went wrong.
        seconds: time in the decoder.
        slowest_s: the longest case.
        found: the first findings, with input and traceback.
    """

    cases: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest_s: float = 0.0
    found: list[dict[str, Any]] = field(default_factory=list)


def run_case(decoder: Decoder, data: bytes, outcome: Outcome, case: str) -> None:
    """Decode one case and note what came of it."""
    start = time.perf_counter()
    try:
        with case_time():
            decoder.run(data)
        outcome.accepted += 1
    except decoder.declared as error:
        outcome.refused[type(error).__name__] += 1
    except (Exception, TooSlow) as error:  # noqa: BLE001 - whatever else comes is a finding
        what = f"{type(error).__name__}: {error}"[:200] if isinstance(error, BrokenPromise) else type(error).__name__
        outcome.faults[what] += 1
        if outcome.faults[what] <= MOST_FOUND:
            trace = traceback.format_exc().splitlines()[-12:]
            outcome.found.append({"case": case, "fault": what, "input": data.hex()[:20_000], "trace": trace})
    took_s = time.perf_counter() - start
    outcome.cases += 1
    outcome.seconds += took_s
    outcome.slowest_s = max(outcome.slowest_s, took_s)


def fuzz(every: Sequence[Decoder], cases: int, seed: int) -> dict[str, Outcome]:
    """Return what each decoder made of its share of so many cases; the same for the same seed."""
    shares = sum(decoder.share for decoder in every)
    outcomes = {}
    with signals():
        for decoder in every:
            outcome = outcomes[decoder.name] = Outcome()
            count = -(-cases * decoder.share // shares)
            for number in range(count):
                # A generator of its own per case, so that one case can be made again.
                case = f"{seed}/{decoder.name}/{number}"
                run_case(decoder, decoder.make(random.Random(case)), outcome, case)
    return outcomes


def report(outcomes: dict[str, Outcome], seed: int, seconds: float, grown_bytes: int) -> dict[str, Any]:
    """Return the run as plain values."""
    cases = sum(outcome.cases for outcome in outcomes.values())
    return {
        "format": 1,
        "seed": seed,
        "cases": cases,
        "seconds": round(seconds, 1),
        "cases_per_second": round(cases / seconds),
        "faults": sum(outcome.faults.total() for outcome in outcomes.values()) + (grown_bytes > RESIDENT_BYTES),
        "limits": {"case_s": SLOWEST_S, "address_space_bytes": MEMORY_BYTES, "resident_bytes": RESIDENT_BYTES},
        "resident_growth_bytes": grown_bytes,
        "python": platform.python_version(),
        "decoders": {
            name: {each.name: getattr(outcome, each.name) for each in fields(outcome)}
            for name, outcome in outcomes.items()
        },
    }


def main() -> int:
    """Run the command line and return its exit code: 1 where something was found."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", type=int, default=1_000_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--out", type=Path)
    options.add_argument("--only", action="append", help="a decoder's name; repeat")
    options.add_argument("--input", help="one case in hexadecimal, for the decoder of --only")
    asked = options.parse_args()
    every = [decoder for decoder in decoders() if not asked.only or decoder.name in asked.only]
    if asked.input is not None:
        every[0].run(bytes.fromhex(asked.input))
        return 0
    limit_memory()
    before, start = peak_bytes(), time.perf_counter()
    outcomes = fuzz(every, asked.cases, asked.seed)
    written = report(outcomes, asked.seed, time.perf_counter() - start, peak_bytes() - before)
    print(f"{'decoder':<20}{'cases':>9}{'accepted':>10}{'faults':>8}{'slowest ms':>12}{'cases/s':>9}")
    for name, each in outcomes.items():
        rate = each.cases / max(each.seconds, 1e-9)
        counts = f"{name:<20}{each.cases:>9}{each.accepted:>10}{each.faults.total():>8}"
        print(f"{counts}{1e3 * each.slowest_s:>12.1f}{rate:>9.0f}")
    print({key: value for key, value in written.items() if key != "decoders"})
    for each in outcomes.values():
        for finding in each.found:
            print(json.dumps(finding, indent=1), file=sys.stderr)
    if asked.out:
        asked.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return 1 if written["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
