"""Time of the discrete Gaussian sampler beside opendp's, on one core, in one run; JSON and a table.

python tests/benchmarks/noise.py --out noise.json
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import opendp.prelude as opendp

from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.sums import SCALE_BITS

COUNT = 1_000_000
OPENDP_COUNT = 50_000


def seconds_per_million() -> float:
    """Return the time of one million draws, in seconds."""
    start = time.perf_counter()
    discrete_gaussian(KeyStream(os.urandom(32)), COUNT, SCALE_BITS)
    return (time.perf_counter() - start) * 1e6 / COUNT


def opendp_seconds_per_million() -> float:
    """Return the time of one million draws by opendp, from a smaller number of them, in seconds."""
    opendp.enable_features("contrib")
    domain, metric = opendp.vector_domain(opendp.atom_domain(T="i64")), opendp.l2_distance(T=float)
    draw = opendp.m.make_gaussian(domain, metric, scale=float(2**SCALE_BITS))
    start = time.perf_counter()
    draw([0] * OPENDP_COUNT)
    return (time.perf_counter() - start) * 1e6 / OPENDP_COUNT


def main() -> None:
    """Measure ten times each, alternating."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("noise.json"))
    out = parser.parse_args().out
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    seconds_per_million()  # makes the table
    pairs = [(seconds_per_million(), opendp_seconds_per_million()) for _ in range(10)]
    ours, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    machine = {"cores": os.cpu_count(), "platform": platform.platform(), "load_before": load}
    result = {"machine": machine, "synthfed_s_per_million": ours, "opendp_s_per_million": theirs}
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"synthfed {ours:.3f} s, opendp {theirs:.1f} s per million draws (load before {load:.1f})")


if __name__ == "__main__":
    main()
