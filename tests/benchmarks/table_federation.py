"""A measured study of a made-up table: the first site, the other sites and the coordinator are a process each.

All three run the product's own parts over pipes, so that time and peak memory of a site and of the coordinator can
be told apart. It is no test. Never waits for a clock: a simulated site answers as soon as it can.
"""

import base64
import multiprocessing
import secrets
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.benchmarks.made_up_table import made_up_columns, made_up_rows
from tests.benchmarks.stopwatch import HARNESS, SERVER, Laps, Row, Stopwatch, Traffic, count, load, peak_mb

from synthfed.client.site import SimulatedSite
from synthfed.plugins.api import Ask
from synthfed.plugins.domains.table import TableDomain
from synthfed.plugins.pinning import Pinned, pin
from synthfed.protocols.cohort import Site, least_quorum, least_tolerated
from synthfed.protocols.schema import Column
from synthfed.protocols.secagg import messages
from synthfed.protocols.study import ModelTerms, Privacy, Study
from synthfed.server.drafting import make_study, with_sites
from synthfed.server.finish import finish
from synthfed.server.guarded import GuardedTrainer
from synthfed.server.link import MemoryLink
from synthfed.server.sampling import draw
from synthfed.server.store import Run
from synthfed.server.study_file import render_study
from synthfed.server.training import Training, Waiting


class Size(NamedTuple):
    """What a study's time and memory depend on.

    Attributes:
        rows: of all sites together.
        columns: of the table.
        sites: that the rows are dealt to equally.
        sampled: synthetic rows that are drawn and written after the training.
    """

    rows: int
    columns: int
    sites: int
    sampled: int


def deal(size: Size, columns: Sequence[Column], folder: Path) -> dict[str, Path]:
    """Write every site's table and return the files by site."""
    tables = {}
    for number, part in enumerate(np.array_split(made_up_rows(columns, size.rows, seed=0), size.sites), 1):
        tables[f"site-{number}"] = folder / f"site-{number}.csv"
        TableDomain().write(tables[f"site-{number}"], columns, [part])
    return tables


def made_up_study(size: Size, columns: Sequence[Column]) -> Study:
    """Return a draft with the terms of `docs/tables.md`: the model as it comes, epsilon 1, rows as units.

    One step, so that a default with a critic would add next to nothing.
    """
    roster = [Site(id=f"site-{number}") for number in range(1, size.sites + 1)]
    tolerated = least_tolerated(roster)
    quorum = min(size.sites, least_quorum(size.sites, tolerated, "distributed"))
    return make_study(
        name="growth",
        target=columns[0].name,
        privacy=Privacy(
            mode="distributed",
            epsilon=1.0,
            delta=1e-5,
            units_per_site=-(-size.rows // size.sites),
            sample_rate=0.1,
            steps=1,
        ),
        model=ModelTerms(plugin="gan"),
        cohort={"sites": roster, "tolerated": tolerated, "quorum": quorum},
        columns=columns,
    )


# The sites


def attend(tables: Mapping[str, Path], line: Connection, result: Connection) -> None:
    """Be some sites until an empty name comes, then tell the time and the peak memory of this process."""
    torch.set_num_threads(1)
    watch, start_mb = Stopwatch(), peak_mb()
    with tempfile.TemporaryDirectory() as name:
        sites = {site: SimulatedSite(Path(name) / site, site, table) for site, table in tables.items()}
        line.send({site: each.public_key for site, each in sites.items()})
        study = cast(Study, line.recv())
        with watch(HARNESS, "plan"):  # as long as the coordinator's, at each site
            pinned = pin(study)
        for site, each in sites.items():
            with watch(site, "read"):
                each.open(pinned)
        line.send("ready")
        while (site := cast(str, line.recv())) != "":
            frame = line.recv_bytes()
            with watch(site, _part(frame)):
                reply = sites[site].answer(frame)
            line.send_bytes(reply)
        for each in sites.values():
            each.close()
    result.send(({"start_mb": start_mb, "peak_mb": peak_mb()}, watch.laps))


def _part(frame: bytes) -> str:
    """Return what a frame asks for: the handshake, its probe, or the name of a sum."""
    message = messages.decode(frame)[0]
    return message.kind if isinstance(message, messages.Round) else "handshake"


def ask(line: Connection, site: str, traffic: Traffic, frame: bytes) -> bytes:
    """Send a frame to a site at the other end of a line and return its reply."""
    count(traffic, "down", len(frame))
    line.send(site)
    line.send_bytes(frame)
    reply = line.recv_bytes()
    count(traffic, "up", len(reply))
    return reply


# The coordinator


class WatchedTrainer(GuardedTrainer):
    """A trainer whose fit, which it makes before it asks for nothing or for the first step of a critic, is timed."""

    def __init__(self, pinned: Pinned, seed: int, watch: Stopwatch) -> None:
        super().__init__(pinned.plugin, pinned.model, seed)
        self._watch = watch

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        """Return the next sum wanted."""
        with self._watch(SERVER, "fit"):
            return super().ask(remaining)

    def overlap(self) -> None:
        """Do public work."""
        with self._watch(SERVER, "fit"):
            super().overlap()


def serve(size: Size, study: Study, lines: Mapping[str, Connection], result: Connection, folder: Path) -> None:
    """Be the coordinator of sites at the other ends of the lines, from the plan to the sampled rows."""
    torch.set_num_threads(1)
    watch, start_mb = Stopwatch(), peak_mb()
    traffic = {site: Traffic() for site in study.cohort.roster}
    answers: dict[str, Callable[[bytes], bytes]] = {
        site: partial(ask, lines[site], site, traffic[site]) for site in study.cohort.roster
    }
    with watch(SERVER, "plan"):
        pinned = pin(study)
    trainer = WatchedTrainer(pinned, 0, watch)
    run = Run.begin(folder / "run", render_study(study), {}, resume=False)
    link = MemoryLink(answers, is_patient=True)
    with watch(SERVER, "rounds"):
        Training(pinned.policy, trainer, link, run, lambda: secrets.token_bytes(32), Waiting()).run()
    link.close()
    with watch(SERVER, "release"):
        finish(
            run,
            pinned,
            trainer,
            folder / "release",
            min(size.rows, 10_000),
            0,
            Ed25519PrivateKey.generate(),
            "simulation",
        )
    trained_mb, columns = peak_mb(), study.released.columns
    with watch(SERVER, "sample"):
        pinned.domain.write(folder / "more.csv", columns, draw(trainer, columns, size.sampled, 7))
    found = {
        "start_mb": start_mb,
        "trained_mb": trained_mb,
        "peak_mb": peak_mb(),
        "sums": {kind.sum.name: [kind.sum.dim, kind.slots] for kind in pinned.policy.plan.kinds},
        "traffic": {site: dict(each) for site, each in traffic.items()},
    }
    result.send((found, watch.laps))


# All of it


def measure(size: Size) -> Row:
    """Return what one study took: seconds of wall and processor by phase, bytes, and peak memory in MB."""
    context, columns = multiprocessing.get_context("spawn"), made_up_columns(size.columns)
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        folder, (first, *others) = Path(name), [f"site-{number}" for number in range(1, size.sites + 1)]
        tables, before = deal(size, columns, folder), load()
        groups = [_SiteGroup(context, {site: tables[site] for site in group}) for group in ([first], others)]
        keys = {site: key for group in groups for site, key in group.keys.items()}
        study = made_up_study(size, columns)
        study = with_sites(study, [Site(id=site, key=base64.b64encode(key).decode()) for site, key in keys.items()])
        for group in groups:
            group.join(study)
        lines = {site: group.line for group in groups for site in group.keys}
        receiver, sender = context.Pipe(duplex=False)
        server = context.Process(target=serve, args=(size, study, lines, sender, folder), daemon=True)
        server.start()
        sender.close()
        coordinator, laps = receiver.recv()
        server.join()
        (site, own_laps), (_, other_laps) = (group.leave() for group in groups)
    at_sites = {**other_laps, **own_laps}
    return {**size._asdict(), **_summary(coordinator, laps, site, at_sites), "load": [before["load"], load()["load"]]}


class _SiteGroup:
    """Some sites in a process of their own, and the line to it."""

    def __init__(self, context: SpawnContext, tables: Mapping[str, Path]) -> None:
        self.line, theirs = context.Pipe()
        self._result, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=attend, args=(tables, theirs, sender), daemon=True)
        self._process.start()
        theirs.close()
        sender.close()  # so that a death at the other end ends this one
        self.keys = cast(dict[str, bytes], self.line.recv())

    def join(self, study: Study) -> None:
        """Let the sites read their tables."""
        self.line.send(study)
        self.line.recv()

    def leave(self) -> tuple[Row, Laps]:
        """End the process and return what it measured."""
        self.line.send("")
        found = cast(tuple[Row, Laps], self._result.recv())
        self._process.join()
        return found


def _summary(coordinator: Row, laps: Laps, site: Row, at_sites: Laps) -> Row:
    """Return one row: of sites the medians, for all do the same."""
    traffic: dict[str, Traffic] = coordinator.pop("traffic")
    by_phase: dict[str, list[tuple[float, float]]] = {}
    for (who, part), spent in at_sites.items():
        if who != HARNESS:
            by_phase.setdefault(part, []).append(spent)
    sites = {part: [statistics.median(each) for each in zip(*spent, strict=True)] for part, spent in by_phase.items()}
    return {
        "sums": coordinator.pop("sums"),
        "coordinator_s": {part: wall for (_, part), (wall, _) in laps.items()},
        "coordinator_cpu_s": {part: cpu for (_, part), (_, cpu) in laps.items()},
        "site_s": {part: wall for part, (wall, _) in sites.items()},
        "site_cpu_s": {part: cpu for part, (_, cpu) in sites.items()},
        "bytes_up": statistics.median(each["bytes_up"] for each in traffic.values()),
        "bytes_down": statistics.median(each["bytes_down"] for each in traffic.values()),
        **{f"coordinator_{name}": value for name, value in coordinator.items()},
        **{f"site_{name}": value for name, value in site.items()},
    }
