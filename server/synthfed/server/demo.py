"""The demo: up to six sites, two processes of each, and a coordinator on this machine, from data to release.

Never takes a short cut: it runs the commands that operators and sites run.
"""

import contextlib
import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from synthfed.plugins.processes import GRACE_S, Child, close_all, flower_environment, held_port, this_program
from synthfed.protocols.cohort import Site, least_quorum
from synthfed.protocols.errors import ConfigError, QuorumLost, TransportError
from synthfed.protocols.study import ModelTerms, Privacy, Study

from .conduct import Request, conduct
from .demo_data import COLUMNS, RECORDS_PER_PERSON, TARGET, UNIT, DemoTables, write_demo_tables
from .drafting import make_study
from .evidence import Evidence
from .home import ServerHome, enrol, init_home
from .proposing import coordinator_key
from .releases.auditing import audit_release, real_rows
from .releases.findings_table import findings_table
from .releases.sealing import seal_folder
from .report import Finding
from .store import Status
from .study_file import render_study

_ROWS: Final = 16_000
_TOLERATED: Final = 1
_WAIT_S: Final = 300.0
_POLL_S: Final = 0.05


def demo_study(sites: Sequence[Site], epsilon: float, steps: int) -> Study:
    """Return the demo's terms for these sites."""
    privacy = Privacy(
        mode="distributed",
        epsilon=epsilon,
        delta=1e-5,
        unit=UNIT,
        records_per_unit=RECORDS_PER_PERSON,
        units_per_site=2000,
        sample_rate=0.2,
        steps=steps,
        answer_time_s=0.25,
        statistic_time_s=5.0,
    )
    return make_study(
        name="rand-hie",
        target=TARGET,
        domain="table",
        privacy=privacy,
        model=ModelTerms(plugin="tabular-gan", options={"bins": 60, "refine": True}),
        cohort={"sites": sites, "tolerated": _TOLERATED, "quorum": least_quorum(len(sites), _TOLERATED, "distributed")},
        columns=COLUMNS,
    )


def run_demo(
    out: Path, *, sites: int, epsilon: float, steps: int, seed: int, console: Console, watch: Callable[[Status], None]
) -> None:
    """Run the whole demo and print what came out.

    Args:
        out: where the release goes; must not exist or be empty.
        sites: how many take part, 3 to 6.
        epsilon: the promise to one person.
        steps: rounds of the critic.
        seed: fixes initial weights and the coordinator's draws.
        console: where to print.
        watch: shows the run's status.

    Raises:
        TransportError, QuorumLost: the coordinator, or too many sites, ended before the release was made.
    """
    start = time.monotonic()
    with _folder() as folder, held_port() as port, held_port() as steps_port:
        tables = write_demo_tables(folder, sites)
        home = ServerHome(folder / "coordinator")
        init_home(home, "127.0.0.1", "127.0.0.1", port, steps_port)
        console.print(f"{len(tables.sites)} sites make their keys and enrol ...")
        homes = _make_sites(folder, home, tables)
        study_file = folder / "study.toml"
        study = demo_study([site.roster_entry for site in home.sites().values()], epsilon, steps)
        study_file.write_text(render_study(study), encoding="utf-8")
        _approve(folder, homes, study_file)
        console.print("every site has approved the study under its own key (as `synthfed client approve` does)")
        request = Request(study_file, out, _ROWS, seed, _WAIT_S, "session", resume=False)
        began = _Stopwatch(watch)
        with _no_resuming(), _running(homes) as begin:
            conduct(home, request, began.see, begin)
        console.print(
            f"first step after {began.first_step_s - start:.0f} s, trained after {time.monotonic() - start:.0f} s"
        )
        console.print("auditing the release against held-out persons ...")
        findings = _audit(study, out, tables, seed)
        seal_folder(out, coordinator_key(home), study=study.hash, setting="federation")  # with the audits
    spent = out / "evidence.json"
    _print_result(console, study, Evidence.from_json(spent.read_bytes(), where=str(spent)), findings)
    console.print(f"release: {out.absolute()}   ({time.monotonic() - start:.0f} s in all); open report.html")


class _Stopwatch:
    """Passes statuses on and remembers when the first step was done."""

    def __init__(self, watch: Callable[[Status], None]) -> None:
        self._watch = watch
        self.first_step_s = float("nan")

    def see(self, status: Status) -> None:
        if status.step and self.first_step_s != self.first_step_s:  # NaN until the first step
            self.first_step_s = time.monotonic()
        self._watch(status)


@contextlib.contextmanager
def free_folder(wanted: Path | None) -> Iterator[Path]:
    """Yield the wanted folder, or a new one named release, release-2, ...; an unused one is removed again."""
    if wanted is not None:
        yield wanted
        return
    for count in itertools.count(1):
        folder = Path("release" if count == 1 else f"release-{count}")
        try:
            folder.mkdir()  # at once ours, also where two demos start together
            break
        except FileExistsError:
            continue
    try:
        yield folder
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # only works where nothing was written


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Yield a private temporary folder with a short path, as Unix sockets need one."""
    folder = Path(tempfile.mkdtemp(prefix="synthfed-demo-", dir="/tmp" if os.name == "posix" else None))  # noqa: S108
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _no_resuming() -> Iterator[None]:
    """Replace the advice to resume or to read a log: a demo that ends early takes both with it."""
    try:
        yield
    except (TransportError, QuorumLost) as error:
        kind = TransportError if isinstance(error, TransportError) else QuorumLost
        reason = re.split(r"; | \(log:", str(error))[0]
        raise kind(f"{reason}; the demo has ended and removed its files: start it again") from None


def _make_sites(folder: Path, home: ServerHome, tables: DemoTables) -> list[Path]:
    """Let every site run ``client init`` for itself and enrol what it sends back."""
    homes = {site: folder / site for site in tables.sites}
    children = []
    for site, path in homes.items():
        arguments = ["client", "init", "--invitation", str(home.invitation), "--site", site, "--home", str(path)]
        command = this_program(*arguments, "--data", str(tables.sites[site]), "--controller", f"operator of {site}")
        children.append(Child(site, command, folder / f"{site}.log", os.environ))
    _run_all(children, "could not be made")
    for path in homes.values():
        enrol(home, path / "enrolment.json")
    return list(homes.values())


def _approve(folder: Path, homes: Sequence[Path], study_file: Path) -> None:
    """Let every site run ``client approve`` for itself, under its own key."""
    children = [
        Child(
            path.name,
            this_program("client", "approve", str(study_file), "--home", str(path)),
            folder / f"{path.name}.approve.log",
            os.environ,
        )
        for path in homes
    ]
    _run_all(children, "could not approve the study")


def _run_all(children: Sequence[Child], failure: str) -> None:
    """Run programs beside each other to their ends; ConfigError where one of them fails."""
    try:
        for child in children:
            child.start()
        while any(child.is_running() for child in children):
            time.sleep(_POLL_S)
    finally:
        close_all(children)
    for child in children:
        if child.exit_code():
            raise ConfigError(f"{child.name} {failure}: {child.last_words(1)}")


@contextlib.contextmanager
def _running(homes: Sequence[Path]) -> Iterator[Callable[[], None]]:
    """Yield a function that starts every site's ``client run``; all are ended on the way out."""
    children = [
        Child(
            path.name,
            this_program("client", "run", "--home", str(path), "--allow-unconfined"),
            path / "run.log",
            # A register of its own: these homes go, and another demo has the same records.
            {**flower_environment(path / "flwr"), "XDG_STATE_HOME": str(path.absolute() / "state")},
        )
        for path in homes
    ]

    def begin() -> None:
        for child in children:
            child.start()

    try:
        yield begin
    finally:
        close_all(children, 2 * GRACE_S)  # each first ends two children of its own


def _audit(study: Study, out: Path, tables: DemoTables, seed: int) -> tuple[Finding, ...]:
    """Audit the release against the real rows, which only a demo has in one place."""
    train, holdout = (real_rows(study, path, seed) for path in (tables.train, tables.holdout))
    return audit_release(out, train=train, holdout=holdout, seed=seed)


def _print_result(console: Console, study: Study, evidence: Evidence, findings: Sequence[Finding]) -> None:
    """Print what the audits found, and what was promised."""
    console.print(findings_table(findings))
    promise = study.privacy
    failing = evidence.epsilon_if_secagg_fails
    console.print(
        f"epsilon {evidence.epsilon:.2f} of {promise.epsilon:g}, delta {promise.delta:g} for one {promise.unit}, mode "
        f"{promise.mode}; {'without bound' if failing is None else f'{failing:.1f}'} if every other site colluded"
    )
