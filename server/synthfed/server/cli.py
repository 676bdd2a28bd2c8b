"""The coordinator's commands, and those that need no federation: study, simulate, compare, demo.

Never computes anything itself: it reads arguments, calls the server's modules and prints.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args, get_type_hints

import typer
from rich.console import Console

from synthfed.protocols.errors import ConfigError

from .wishes import Wishes, flag_of, pairs

if TYPE_CHECKING:
    from .compare.comparison import Request

app: Final = typer.Typer(
    help="Run a coordinator.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
study: Final = typer.Typer(
    help="Draft and check a study file.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
simulate: Final = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
compare: Final = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
demo: Final = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

HomeOption = Annotated[Path, typer.Option("--home", help="The coordinator's folder.")]
LARGEST_SEED: Final = 2**63 - 1
SeedOption = Annotated[
    int,
    typer.Option(
        min=0, max=LARGEST_SEED, help="Fixes initial weights and the coordinator's draws, never privacy noise."
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(help="model=NAME,data=NAME,seed=NUMBER,split=NAME,epsilon=NUMBER, each part optional; repeat."),
]
AgainOption = Annotated[bool, typer.Option("--again", help="Run also what is finished.")]
PeersOption = Annotated[
    Path | None, typer.Option("--peers-python", help="A Python whose environment has the peers; this one else.")
]
RowsOption = Annotated[int, typer.Option("--rows", "-n", min=1, help="How many synthetic rows.")]
_HOME: Final = Path("coordinator")
_PORT: Final = 8443
_STEPS_PORT: Final = 8444


@app.command()
def init(
    host: Annotated[str, typer.Option(help="Name or address under which sites reach this machine.")] = "127.0.0.1",
    bind: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="For sites' Flower nodes.")] = _PORT,
    steps_port: Annotated[int, typer.Option(help="For sites' relays.")] = _STEPS_PORT,
    home: HomeOption = _HOME,
) -> None:
    """Make the authority, the server's certificate and the invitation for sites."""
    from synthfed.protocols.ids import fingerprint

    from .home import ServerHome, init_home
    from .proposing import coordinator_key

    place = ServerHome(home)
    invitation = init_home(place, host, bind, port, steps_port)
    key = fingerprint(coordinator_key(place).public_key().public_bytes_raw())
    console = _console()
    console.print(f"home         {home}")
    console.print(f"invitation   {place.invitation}, authority {invitation.fingerprint}   (compare by voice)")
    console.print(f"coordinator  {key}   (signs proposals of studies; compare by voice)")
    console.print("Send the invitation to every site; enrol what they send back with `synthfed server enroll FILE`.")


@app.command()
def enroll(
    files: Annotated[list[Path], typer.Argument(help="Enrolment files that sites sent.")], home: HomeOption = _HOME
) -> None:
    """Register sites by their enrolment files and print fingerprints to compare by voice."""
    from synthfed.protocols.ids import fingerprint
    from synthfed.protocols.signed import decoded

    from .home import ServerHome, enrol

    for file in files:
        enrolment = enrol(ServerHome(home), file)
        _console().print(f"{enrolment.site}   fingerprint {enrolment.fingerprint}   (compare by voice)")
        for each in enrolment.rotations:
            old, new = (fingerprint(decoded(key)) for key in (each.old, each.new))
            _console().print(f"{enrolment.site}   identity {old} was followed by {new}, which both have signed")


@app.command()
def revoke(
    named: Annotated[str, typer.Argument(metavar="SITE|KEY", help="An enrolled site, or an identity's fingerprint.")],
    home: HomeOption = _HOME,
) -> None:
    """Take an identity key no longer: in no enrolment, proposal or run of this coordinator."""
    import time

    from .home import ServerHome
    from .home import revoke as revoke_key
    from .revocation import led_to

    place = ServerHome(home)
    revoked, site = revoke_key(place, named, time.time())
    _console().print(f"revoked {revoked.key}; no study whose roster has it is proposed or run here any more")
    if site:
        _console().print(f"{site} is not enrolled any more: take its new file, and compare both keys by voice")
    for each in led_to(revoked.key, place.sites()):
        doubt = f"{each} stays enrolled under a key that this one has signed, and a thief of it could have, too: "
        _console().print(f"{doubt}compare that key by voice, or run `synthfed server revoke {each}`", markup=False)
    told = "Tell every site: `revoked_keys` of [policy] in site.toml makes its agent refuse the key, too."
    _console().print(told, markup=False)


@app.command()
def run(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY", help="The agreed study file.")],
    out: Annotated[Path, typer.Option(help="Folder for the release.")] = Path("release"),
    rows: RowsOption = 10_000,
    seed: SeedOption = 0,
    wait: Annotated[float, typer.Option(min=1, help="Seconds to wait for sites.")] = 300.0,
    transport: Annotated[str, typer.Option(help="`session` (fast) or `messages` (one port only, slow).")] = "session",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    home: HomeOption = _HOME,
) -> None:
    """Run a study to its release; sites join with `synthfed client run`."""
    from .conduct import Request, conduct
    from .home import ServerHome
    from .watch import watching

    if transport not in ("session", "messages"):
        raise ConfigError("must be `session` or `messages`", where="--transport")
    console = _console()
    with _interruptible(), watching(console) as watch:
        conduct(ServerHome(home), Request(study_file, out, rows, seed, wait, transport, resume), watch)
    console.print(f"release: {out.absolute()}")


@app.command()
def status(home: HomeOption = _HOME) -> None:
    """Print where every run of this coordinator stands."""
    from synthfed.plugins.processes import is_alive

    from .home import ServerHome
    from .store import Run
    from .unused import MARK
    from .watch import draw

    place = ServerHome(home)
    place.load()
    console = _console()
    folders = sorted(path for path in (place.path / "runs").glob("*") if path.is_dir() and MARK not in path.name)
    if not folders:
        console.print("no run yet; start one with `synthfed server run STUDY`")
    for folder in folders:
        state = Run(folder).status()
        if state.phase not in ("trained", "paused", "failed") and not is_alive(state.pid):
            state.phase, state.message = "interrupted", "go on with `synthfed server run STUDY --resume`"
        console.print(f"[bold]{folder.name}[/bold]")
        console.print(draw(state))


def _with_flags(command: Callable[[Wishes], None]) -> Callable[..., None]:
    """Return the command with one flag for each wish, of the kind and with the explanation that it declares."""

    def ask(**given: Any) -> None:
        command(Wishes(**given))

    flags, kinds = [], get_type_hints(Wishes, include_extras=True)
    for wish in fields(Wishes):
        kind, explanation = get_args(kinds[wish.name])
        option = typer.Option(flag_of(wish.name), help=explanation)
        flag = Annotated[kind, option]  # type: ignore[valid-type]  # known at run time only
        default = Parameter.empty if wish.default is MISSING else wish.default
        flags.append(Parameter(wish.name, Parameter.KEYWORD_ONLY, default=default, annotation=flag))
    ask.__doc__ = command.__doc__
    ask.__signature__ = Signature(flags)  # type: ignore[attr-defined]  # what typer reads
    return ask


@study.command("new")
@_with_flags
def study_new(wishes: Wishes) -> None:
    """Draft a complete study file from a public or dummy table."""
    from synthfed.plugins.files import write_whole

    from .drafting import draft_study, with_enough_time
    from .study_file import render_study

    if wishes.out.exists():
        raise ConfigError("already exists and is not overwritten", where=str(wishes.out))
    drafted = with_enough_time(draft_study(wishes))
    write_whole(wishes.out, [render_study(drafted).encode()])
    console, size = _console(), f"{len(drafted.columns)} columns, {len(drafted.cohort.sites)} sites"
    console.print(f"study: {wishes.out}   ({size}, mode {wishes.mode})")
    console.print(
        "Bounds and categories were read from the given file: it must be public or made up, never private records."
    )
    if drafted.is_draft:
        console.print("A draft: put each site's key (from its enrolment file) into the roster before `server run`.")


@study.command("check")
def study_check(file: Annotated[Path, typer.Argument(help="A study file.")]) -> None:
    """Compute the noise that the promise needs, and what remains of it if secure aggregation fails."""
    from synthfed.plugins.pinning import naming, pin

    from .plan_table import print_plan

    checked = _load_study(file)
    with naming(str(file)):
        plan = pin(checked).policy.plan
    print_plan(_console(), checked, plan)


@study.command("propose")
def study_propose(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="A study file with every site's key.")],
    home: HomeOption = _HOME,
    out: Annotated[Path | None, typer.Option(help="The file to write; STUDY with .terms.json else.")] = None,
) -> None:
    """Sign a study's terms with the coordinator's key, for the sites' stewards to review."""
    from .home import ServerHome
    from .proposing import propose

    place, proposal = propose(ServerHome(home), file, out)
    console = _console()
    console.print(f"proposal     {place}, terms {proposal.study(where=str(place)).hash.hex()[:16]}", markup=False)
    console.print(f"coordinator  {proposal.fingerprint}   (compare by voice)")
    console.print("Send it to every site; its stewards run `synthfed client review` and `approve`.")


@simulate.command()
def simulate_study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="A study file; a draft will do.")],
    site: Annotated[list[str], typer.Option(help="NAME=FILE, a site and its table; repeat.")],
    out: Annotated[Path, typer.Option(help="Folder for the release.")],
    rows: RowsOption = 10_000,
    seed: SeedOption = 0,
) -> None:
    """Run a study in one process: same agents, noise and ledgers, no network."""
    from synthfed.plugins.pinning import naming

    from .simulate import simulate as run_simulation
    from .watch import watching

    tables = {name: Path(table) for name, table in pairs(site, "NAME=FILE", where="--site").items()}
    if len(tables) < 2:
        raise ConfigError("give at least two sites", where="--site")
    console, loaded = _console(), _load_study(file)
    with naming(str(file)), _interruptible(), watching(console) as watch:
        run_simulation(loaded, tables, out, rows=rows, seed=seed, watch=watch)
    console.print(f"release: {out.absolute()}")


@compare.command()
def compare_models(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="Data sets, models and seeds, as docs/models.toml.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets' files; all must be public.")] = None,
    results: Annotated[Path | None, typer.Option(help="The file of all runs; the plan's name with .json else.")] = None,
    page: Annotated[Path | None, typer.Option(help="The page for the table; the plan's name with .md else.")] = None,
    only: OnlyOption = None,
    again: AgainOption = False,
    plot: Annotated[Path | None, typer.Option(help="An SVG file for the picture of quality against epsilon.")] = None,
    peers_python: PeersOption = None,
) -> None:
    """Train models on public data in simulated federations, measure them, and write the table."""
    from .compare.comparison import Request

    results, page = results or plan.with_suffix(".json"), page or plan.with_suffix(".md")
    run_comparison(Request(plan, data, results, page, only or [], again, plot, peers_python))


def run_comparison(request: "Request") -> None:
    """Run a comparison until it is done or interrupted, and print where it is written."""
    from .compare.comparison import compare

    console = _console()
    with _interruptible():
        failures = compare(request, lambda line: console.print(line, markup=False))
    written = [f"results: {request.results}", f"table: {request.page}"]
    written += [] if request.plot is None else [f"picture: {request.plot}"]
    console.print(", ".join(written + ([f"{failures} failed"] if failures else [])))


@demo.command()
def run_the_demo(
    out: Annotated[Path | None, typer.Option(help="Folder for the release; release, release-2, ... else.")] = None,
    sites: Annotated[int, typer.Option(min=3, max=6, help="How many take part.")] = 6,
    epsilon: Annotated[float, typer.Option(min=0.01, max=100.0, help="Promised to one person.")] = 5.0,
    steps: Annotated[int, typer.Option(min=1, help="Rounds of the critic.")] = 200,
    seed: SeedOption = 0,
) -> None:
    """Run a federation of up to six sites on this machine, from data to release."""
    from .demo import free_folder, run_demo
    from .finish import check_place
    from .watch import watching

    if out is not None:
        check_place(out)
    console = _console()
    with _interruptible(), free_folder(out) as folder, watching(console) as watch:
        run_demo(folder, sites=sites, epsilon=epsilon, steps=steps, seed=seed, console=console, watch=watch)


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn SIGTERM and the end of the terminal into the same orderly end as Ctrl-C; nothing interrupts that end."""
    from synthfed.plugins.processes import interruptions

    numbers = interruptions()

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _load_study(file: Path) -> Any:
    from synthfed.plugins.files import read_text
    from synthfed.protocols.study import parse_study

    return parse_study(read_text(file), where=str(file))
