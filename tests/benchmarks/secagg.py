"""Secure aggregation beside Flower's SecAgg+, masking beside its limit, and growth; JSON and tables.

Ours are the real SiteMachine and Aggregator; theirs the real secaggplus_mod and SecAggPlusWorkflow with real
messages. Transport, framing and training are left out on both sides; encoding to integers, and a model of the sum's
size on its way down, are counted on both. Our times are without the ledger's disk sync and without noise, which
SecAgg+ has not: both stand beside them. Ours agrees on keys once per session, SecAgg+ in each round. It is no test.
Never compares runs of different machines; where others use the machine, processor time tells more than wall time.

    python -m tests.benchmarks.secagg --out secagg.json
"""

import argparse
import itertools
import json
import logging
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, cast

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # its threads spin while they wait, which would count as time

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flwr.supercore.task_identity import TaskIdentity
from tests.benchmarks.flower_secagg import SHARES, THRESHOLD, Theirs
from tests.benchmarks.our_secagg import GRADIENT, Clients, Ours, clipped, finish, handshake, make_policy
from tests.benchmarks.stopwatch import HARNESS, SERVER, Row, Stopwatch, load, peak_mb, seconds, summary

from synthfed.client.entries import Charge
from synthfed.client.vault import Ledger
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.accountant import SampledGaussian
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.masks import apply_masks
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.sums import GRID, SCALE_BITS

CHUNK_BYTES = 256 * 1024


class Sizes(NamedTuple):
    """What one run measures."""

    compared: tuple[tuple[int, int, int], ...]  # sites, dim, rounds
    growth: tuple[tuple[int, int], ...]
    masked: tuple[tuple[int, int], ...]
    noise: tuple[int, ...]
    repeats: int


FULL = Sizes(
    compared=tuple((sites, dim, rounds) for dim in (10**5, 10**6) for sites, rounds in ((3, 6), (10, 4), (32, 2))),
    growth=(
        *((10, dim) for dim in (10**5, 10**6, 10**7)),
        *((sites, 10**6) for sites in (3, 32, 50)),
        (50, 10**7),
    ),
    masked=tuple((sites, dim) for dim in (10**5, 10**6, 10**7) for sites in (3, 10, 32)),
    noise=(10**5, 10**6),
    repeats=9,
)
QUICK = Sizes(
    compared=((3, 10**4, 1), (10, 10**4, 1)), growth=((4, 10**5),), masked=((10, 10**5),), noise=(10**4,), repeats=2
)


def compare(sites: int, dim: int, rounds: int) -> list[Row]:
    """Return one row per protocol, their rounds alternating; the first round of each is not counted."""
    ours = [Ours(sites, dim, bits) for bits in (32, 64)]
    sides: list[Ours | Theirs] = [*ours, *(Theirs(name, sites, dim) for name in SHARES)]
    watches: dict[str, list[Stopwatch]] = {side.name: [] for side in sides}
    traffics = {}
    for number in range(rounds + 1):
        for side in sides:
            if number == 0 and dim * sites > 10**6 and isinstance(side, Theirs):
                continue  # long enough for a first round not to matter
            watch, traffic = side.round()
            traffics[side.name] = traffic
            if number:
                watches[side.name].append(watch)
    rows = [
        {"protocol": name, "sites": sites, "dim": dim, "rounds": len(each), **load(), **summary(each), **traffics[name]}
        for name, each in watches.items()
    ]
    for row, role in itertools.product(rows, ("client", SERVER)):
        row[f"{role}_cpu_ratio"] = row[f"{role}_cpu_ms"] / rows[0][f"{role}_cpu_ms"]
    rows[0]["handshake"] = {**summary([ours[0].watch]), **ours[0].traffic}
    return rows


# What is left out of the comparison


def sync_ms(count: int) -> Row:
    """Return the time of a charge, durable on the disk of the temporary folder, and of settling it."""
    charges, settlements = [], []
    with tempfile.TemporaryDirectory(prefix="synthfed-bench-") as folder:
        ledger = Ledger(Path(folder) / "ledger.db", Ed25519PrivateKey.generate(), create=True)
        for counter in range(1, count + 1):
            charge = Charge(bytes(32), "study", GRADIENT, bytes(32), counter, bytes(32), SampledGaussian(0.01, 1.0, 1))
            start = time.perf_counter()
            sequence = ledger.charge(charge)
            middle = time.perf_counter()
            ledger.settle(sequence, "sent")
            charges.append(1000 * (middle - start))
            settlements.append(1000 * (time.perf_counter() - middle))
        ledger.close()
    return {
        "charge_ms": statistics.median(charges),
        "charge_ms_90": sorted(charges)[int(0.9 * (count - 1))],
        "settle_ms": statistics.median(settlements),
        "count": count,
        "folder": tempfile.gettempdir(),
    }


def noise_ms(dim: int, repeats: int) -> Row:
    """Return the time of one site's noise."""
    spents = [
        seconds(lambda: discrete_gaussian(KeyStream(os.urandom(32)), dim, SCALE_BITS)) for _ in range(repeats + 1)
    ][1:]
    wall, cpu = (1000 * statistics.median(each) for each in zip(*spents, strict=True))
    return {"dim": dim, "ms": wall, "cpu_ms": cpu}


def masking(sites: int, dim: int, repeats: int) -> Row:
    """Return the speed of masking, in GB/s of mask, beside its limit 1 / (1/AES + 1/add), from processor times."""
    words, keys = np.zeros(dim, dtype="<u4"), [(os.urandom(32), peer % 2 == 0) for peer in range(sites - 1)]
    encryptor = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    zeros, out = bytes(CHUNK_BYTES), bytearray(CHUNK_BYTES + 16)
    chunk, other = np.zeros(CHUNK_BYTES // 4, dtype="<u4"), np.zeros(CHUNK_BYTES // 4, dtype="<u4")
    chunks, again = 256, max(1, 10**7 // (dim * (sites - 1)))

    def encrypt() -> None:
        for _ in range(chunks):
            encryptor.update_into(zeros, out)

    def add() -> None:
        for _ in range(chunks):
            np.add(chunk, other, out=chunk)

    def mask() -> None:
        for _ in range(again):
            apply_masks(words, keys)

    size, found = chunks * CHUNK_BYTES / 1e9, []
    mask()
    for _ in range(repeats):
        aes, added = size / seconds(encrypt)[1], size / seconds(add)[1]
        masked_s = seconds(mask)[1]
        speed, limit = again * words.nbytes * len(keys) / 1e9 / masked_s, 1 / (1 / aes + 1 / added)
        found.append((aes, added, limit, speed, speed / limit))
    names = ("aes_gb_s", "add_gb_s", "limit_gb_s", "masking_gb_s", "share")
    medians = (statistics.median(each) for each in zip(*found, strict=True))
    return {"sites": sites, "dim": dim, **dict(zip(names, medians, strict=True))}


# Growth


def attend(policy: Policy, line: Connection, result: Connection) -> None:
    """Be every site of a study, one after another, so that the peak is one site's; the first draws its noise."""
    watch, dim = Stopwatch(), policy.plan.kinds[0].sum.dim
    clients = Clients(policy, np.zeros(0), policy.study.cohort.roster[0])
    discrete_gaussian(KeyStream(bytes(32)), 1, SCALE_BITS)  # makes the table
    for _ in ("open", "roll", "seal", "probe"):
        message = cast(messages.Request, messages.decode(line.recv_bytes())[0])
        for site in clients.machines:
            line.send_bytes(messages.encode(clients.answer(site, message, watch), 1))
    watch, start_mb = Stopwatch(), peak_mb()
    message = cast(messages.Request, messages.decode(line.recv_bytes())[0])
    clients.total = clipped(dim)
    peaks = []
    for site in list(clients.machines):
        line.send_bytes(messages.encode(clients.answer(site, message, watch), 1))
        del clients.machines[site]  # and with it the sum that it keeps for a repeated request
        peaks.append(peak_mb())
    noise_s = watch.laps[HARNESS, "noise"][1]
    result.send(({"start_mb": start_mb, "peak_mb": peaks[0], "noise_cpu_ms": 1000 * noise_s}, watch.laps))


def serve(policy: Policy, line: Connection, result: Connection) -> None:
    """Be the coordinator of sites at the other end of the line, for a session and one round."""

    def ask(message: messages.Request) -> Iterator[tuple[str, messages.Message]]:
        line.send_bytes(messages.encode(message, 1))
        for site in policy.study.cohort.roster:
            yield site, messages.decode(line.recv_bytes())[0]

    aggregator = handshake(policy, ask, Stopwatch())
    watch, start_mb, dim = Stopwatch(), peak_mb(), policy.plan.kinds[0].sum.dim
    with watch(SERVER, "round"):
        message = aggregator.round(aggregator.members, GRADIENT, np.zeros(dim, dtype="<f4").tobytes())
    total = finish(aggregator, ask, watch, message)
    peak = {"start_mb": start_mb, "peak_mb": peak_mb()}
    assert abs(float(total.std()) / GRID - 1) < 0.1  # one site's noise, and nothing else that varies
    result.send((peak, watch.laps))


def grow(sites: int, dim: int) -> Row:
    """Return time and peak memory of one client and of the server, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    policy, (site_end, server_end) = make_policy(sites, dim, 32), context.Pipe()
    running, watch, row = [], Stopwatch(), {"sites": sites, "dim": dim}
    for role, target, end in (("client", attend, site_end), (SERVER, serve, server_end)):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=target, args=(policy, end, sender), daemon=True)
        process.start()
        sender.close()
        end.close()  # so that a death at one side ends the other
        running.append((role, process, receiver))
    for role, process, receiver in running:
        found, laps = receiver.recv()
        process.join()
        watch.laps |= laps
        row |= {f"{role}_{name}": value for name, value in found.items()}
    return {**row, **load(), **summary([watch])}


# The run


def machine() -> Row:
    """Return what a figure depends on beside the program."""
    packages = ("synthfed", "flwr", "numpy", "cryptography", "pycryptodome")
    return {
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in packages},
        "load_before": os.getloadavg(),
    }


def print_table(title: str, rows: list[Row], columns: dict[str, str]) -> None:
    """Print some fields of every row under short names."""
    print(f"\n{title}")
    cells = [list(columns.values())]
    cells += [[f"{v:.2f}" if isinstance(v, float) else str(v) for v in map(row.get, columns)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def print_result(result: Row) -> None:
    """Print everything that was measured."""
    times = {"client_ms": "client ms", "client_cpu_ms": "cpu", "server_ms": "server ms", "server_cpu_ms": "cpu"}
    wire = {"bytes_up": "B up", "bytes_down": "B down", "messages_up": "msgs up", "messages_down": "down"}
    size = {"sites": "n", "dim": "d"}
    ratios = {"client_cpu_ratio": "client x", "server_cpu_ratio": "server x"}
    print_table("One round", result["compared"], {"protocol": "", **size, **times, **ratios, **wire, "load": "load"})
    handshakes = [{**row, **row["handshake"]} for row in result["compared"] if "handshake" in row]
    print_table("Our handshake with probe, once per session", handshakes, {**size, **times, **wire})
    speeds = {"aes_gb_s": "AES GB/s", "add_gb_s": "add", "limit_gb_s": "limit", "masking_gb_s": "masking"}
    print_table("Masking, processor time", result["masking"], {**size, **speeds, "share": "share of limit"})
    print_table("Our noise, per client and round", result["noise"], {"dim": "d", "ms": "ms", "cpu_ms": "cpu"})
    ledger = {"charge_ms": "charge ms", "charge_ms_90": "90 %", "settle_ms": "settle ms"}
    print_table("Our ledger on disk, per client and round", [result["ledger"]], ledger)
    memory = {f"{role}_{when}_mb": f"{role} {when} MB" for role in ("client", SERVER) for when in ("start", "peak")}
    print_table(
        "Growth of ours, 32 bit",
        result["growth"],
        {**size, **times, "client_noise_cpu_ms": "noise", **memory, "load": "load"},
    )
    print(f"\nload before {result['machine']['load_before']}, after {result['load_after']}; {result['seconds']:.0f} s")


def main() -> None:
    """Measure everything, the two protocols alternating."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("secagg.json"))
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # messages are made in task processes only
    start = time.perf_counter()
    result: Row = {"machine": machine(), "shares": SHARES, "threshold": THRESHOLD}
    result["masking"] = [masking(*each, sizes.repeats) for each in sizes.masked]
    result["ledger"] = sync_ms(20 * sizes.repeats)
    result["noise"] = [noise_ms(dim, sizes.repeats) for dim in sizes.noise]
    result["compared"] = [row for each in sizes.compared for row in compare(*each)]
    result["growth"] = [grow(*each) for each in sizes.growth]
    result |= {"load_after": os.getloadavg(), "seconds": time.perf_counter() - start}
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print_result(result)


if __name__ == "__main__":
    main()
