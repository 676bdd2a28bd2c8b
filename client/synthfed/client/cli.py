"""The commands of a site: ``synthfed client init | check | run | agent | node | clear | convert``, books, people.

Never computes anything itself: it reads arguments, calls the site's modules and prints.
"""

import contextlib
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import fingerprint

from .books import cli as books
from .config import Home, private_paths, register_folder, study_path
from .consent.cli import approve, reject, release, review, steward, withdraw
from .keys.cli import HomeOption, PassphraseOption, key, new_passphrase, passphrases_of, piped_passphrase

app = typer.Typer(
    help="Run a site: its agent keeps the records, its node talks to the coordinator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
UnconfinedOption = Annotated[
    bool, typer.Option("--allow-unconfined", help="Go on where the kernel cannot hide the site's files from the node.")
]
_HOME = Path("site")

for each in (steward, review, approve, reject, withdraw, release):
    app.command()(each)


@app.command()
def init(
    invitation: Annotated[Path, typer.Option(help="The coordinator's invitation file.")],
    site: Annotated[str, typer.Option(help="This site's name in the study, such as hospital-a.")],
    data: Annotated[
        str, typer.Option(help="The site's data (a file or folder), absolute or relative to the home.")
    ] = "data.csv",
    controller: Annotated[str, typer.Option(help="The legal entity or operator that runs this site.")] = "",
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase to put the identity key under.")
    ] = False,
    passphrase_file: PassphraseOption = None,
    home: HomeOption = _HOME,
) -> None:
    """Make this site's keys and settings, and the file with public keys to send to the coordinator."""
    from .enrol import init_home

    place = Home(home)
    secret = new_passphrase(passphrase_file) if passphrase or passphrase_file else b""
    enrolment, invited = init_home(place, invitation, site, controller, data, secret)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"home          {home}")
    console.print(f"coordinator   {invited.address}, authority {invited.fingerprint}   (compare by voice)")
    console.print(f"enrolment     {place.enrolment}, fingerprint {enrolment.fingerprint}   (compare by voice)")
    console.print(f"identity      {fingerprint(enrolment.roster_entry.public_key)}   (other sites compare it by voice)")
    console.print(f"Send {place.enrolment.name} to the coordinator; then set `data` and `ceiling` in {place.config}.")


@app.command()
def check(
    home: HomeOption = _HOME,
    drop_invalid: Annotated[
        bool, typer.Option("--drop-invalid", help="Try `drop_invalid = true`: leave rows out that do not fit.")
    ] = False,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Look at settings, keys, study, budget, data, timing, disk, coordinator and confinement before a study."""
    import torch

    from .check import preflight

    torch.set_num_threads(1)  # as in the agent, whose steps are timed
    console = Console(highlight=False, soft_wrap=True)
    is_ok, place = True, Home(home)
    for finding in preflight(place, passphrases_of(place, passphrase_file), drop_invalid=drop_invalid):
        is_ok &= finding.is_ok
        console.print(f"{'ok     ' if finding.is_ok else 'not ok '} {finding.topic:<12} {finding.detail}", markup=False)
    if not is_ok:
        raise typer.Exit(3)


@app.command()
def run(
    home: HomeOption = _HOME, allow_unconfined: UnconfinedOption = False, passphrase_file: PassphraseOption = None
) -> None:
    """Run the agent and the node until interrupted; either is started again when it ends.

    The passphrase of an identity key that has one is asked for once, and given to the agent through a pipe.
    """
    from .keys.identity import load_identity
    from .keys.modes import demand_private
    from .namespaces import close_to_debuggers
    from .supervise import Secret, supervise

    place = Home(home)
    config = place.load()
    demand_private(place)
    place.load_study(config)
    close_to_debuggers()  # before a passphrase is in memory: the node is a process of this user, too
    passphrases = passphrases_of(place, passphrase_file)
    load_identity(place.identity, passphrases)  # a wrong passphrase is told here, where it was typed
    secret = Secret(passphrases.found, None if passphrase_file is None else passphrase_file.absolute())
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"site {config.site}: running; stop with Ctrl-C")
    say = lambda text: console.print(f"site {config.site}: {text}", markup=False)  # noqa: E731
    supervise(place, secret, _stopped(), say, allow_unconfined=allow_unconfined)


@app.command()
def agent(
    home: HomeOption = _HOME,
    passphrase_file: PassphraseOption = None,
    passphrase_stdin: Annotated[
        bool, typer.Option("--passphrase-stdin", help="Read the passphrase from a line of the standard input.")
    ] = False,
) -> None:
    """Run the agent alone: it has the records and no network (for two users, containers or units)."""
    from .namespaces import leave_network

    is_isolated = leave_network()  # before torch starts threads
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger(__name__).info(
        "network: %s", "none (own namespace)" if is_isolated else "not closed by the kernel; close it from outside"
    )
    import torch

    from synthfed.plugins.pinning import naming

    from .channel import serve
    from .site import open_agent

    torch.set_num_threads(1)  # several agents may share a machine, and one thread's sums have one order
    torch.use_deterministic_algorithms(True)
    place, stopped = Home(home), _stopped()
    passphrases = piped_passphrase() if passphrase_stdin else passphrases_of(place, passphrase_file)
    with naming(str(study_path(place, place.load()))), open_agent(place, passphrases) as opened:
        logging.getLogger(__name__).info("ready: study %s", opened.policy.study.name)
        serve(opened, place.socket, stopped, opened.clock)


@app.command()
def node(
    home: HomeOption = _HOME,
    allow_unconfined: UnconfinedOption = False,
    hide: Annotated[list[Path] | None, typer.Option(help="A file or folder to hide, too; repeat.")] = None,
) -> None:
    """Run the Flower node alone: it has the network, and sees nothing of the home but its own folder.

    A Flower coordinator can make a node run code of its choice. So this process hides the home and
    the data from itself, for good, before it becomes the node.
    """
    from synthfed.plugins.files import make_private_folder
    from synthfed.plugins.processes import flower_environment

    from .keys.passphrases import credentials_folder
    from .namespaces import hide_files
    from .supervise import node_command

    place = Home(home.absolute())
    config = place.load()
    if not place.node_key.exists():
        raise ConfigError("is missing; restore it from your backup", where=str(place.node_key))
    command, environment = node_command(place, config), flower_environment(place.node.absolute() / "flwr")
    credentials = credentials_folder()
    hidden = [*private_paths(place, config), *(hide or ()), *([] if credentials is None else [credentials])]
    with contextlib.suppress(ConfigError):  # what is not there cannot be hidden, and the agent may be about to make it
        make_private_folder(register_folder())
    os.chdir("/")
    if not hide_files(place.path, place.node, hidden) and not allow_unconfined:
        raise ConfigError(
            "this kernel cannot hide the home from the node, in which a coordinator can run code; run the node as "
            "another user or on another machine, or accept it with --allow-unconfined",
            where=str(home),
        )
    os.execvpe(command[0], command, environment)  # noqa: S606 - no shell, a fixed program


@app.command()
def clear(home: HomeOption = _HOME, passphrase_file: PassphraseOption = None) -> None:
    """Let the agent serve again after it died inside a step; its charges stand."""
    from synthfed.plugins.processes import exclusive

    from .books.audit_log import AuditLog
    from .keys.identity import load_identity
    from .vault import Ledger

    place = Home(home)
    with exclusive(place.lock, "agent"):
        identity = load_identity(place.identity, passphrases_of(place, passphrase_file))
        with (
            contextlib.closing(Ledger(place.ledger, identity)) as ledger,
            contextlib.closing(AuditLog(place.audit_log, identity)) as log,
        ):
            log.note("ledger-cleared", who="operator", charges=ledger.length)
            count = ledger.clear()
    Console(highlight=False).print(f"{count} interrupted or overrun step(s) cleared; their charges stand")


@app.command()
def convert(
    home: HomeOption = _HOME,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: for the script of one upgrade.")] = False,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Take over a ledger of format 1: once, directly after the upgrade from the version that wrote it.

    Anybody who could write its file could have made it up, so compare what it holds with what you know.
    """
    import time

    from synthfed.plugins.processes import exclusive
    from synthfed.protocols.privacy.accountant import epsilon

    from . import conversion
    from .books.audit_log import AuditLog
    from .chain import mark_path
    from .keys.identity import load_identity

    place, now_unix_s = Home(home), int(time.time())
    delta = place.load().ceiling.delta
    console = Console(highlight=False, soft_wrap=True)
    with exclusive(place.lock, "agent"):
        identity = load_identity(place.identity, passphrases_of(place, passphrase_file))
        found = conversion.read_format_1(place.ledger, now_unix_s)
        book = found.book
        console.print(f"charges       {book.length}")
        console.print(f"spent         epsilon {epsilon(book.events(), delta):.3g} at delta {delta:g}")
        console.print(f"failures      {book.failures} on records, {book.overruns} step(s) given up", markup=False)
        is_marked = mark_path(place.ledger).exists()
        if is_marked:
            console.print("This home had a ledger of format 2, unless an earlier conversion of it was interrupted.")
        if is_marked or not yes:
            typer.confirm("Is that what this site's records have spent?", abort=True)
        with contextlib.closing(AuditLog(place.audit_log, identity)) as log:
            log.note("ledger-converted", who="operator", charges=book.length)
        conversion.convert(place.ledger, identity, found, now_unix_s)
    console.print("The ledger is of format 2 now; back up ledger.db, ledger.mark and identity.key together")


app.command("ledger")(books.ledger)
app.add_typer(books.log, name="log")
app.add_typer(key, name="key")


def _stopped() -> Callable[[], bool]:
    """Return a function that tells whether this program was asked to end."""
    from synthfed.plugins.processes import interruptions

    came: list[int] = []
    for number in interruptions():
        # Not an Event: its lock would deadlock when a second signal interrupts the first one's handler.
        signal.signal(number, lambda received, _: came.append(received))
    return lambda: bool(came)
