"""The commands of a site: ``synthfed client init | check | run | agent | node | clear``.

Never computes anything itself: it reads arguments, calls the site's modules and prints.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .config import Home

app = typer.Typer(
    help="Run a site: its agent keeps the records, its node talks to the coordinator.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

HomeOption = Annotated[Path, typer.Option("--home", help="The site's folder: settings, keys and ledger.")]
_HOME = Path("site")


@app.command()
def init(
    invitation: Annotated[Path, typer.Option(help="The coordinator's invitation file.")],
    site: Annotated[str, typer.Option(help="This site's name in the study, such as hospital-a.")],
    data: Annotated[str, typer.Option(help="The site's table (CSV), absolute or relative to the home.")] = "data.csv",
    controller: Annotated[str, typer.Option(help="The legal entity or operator that runs this site.")] = "",
    home: HomeOption = _HOME,
) -> None:
    """Make this site's keys and settings, and the file with public keys to send to the coordinator."""
    from .enrol import init_home

    place = Home(home)
    enrolment, invited = init_home(place, invitation, site, controller, data)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"home          {home}")
    console.print(f"coordinator   {invited.address}, authority {invited.fingerprint}   (compare by voice)")
    console.print(f"enrolment     {place.enrolment}, fingerprint {enrolment.fingerprint}   (compare by voice)")
    console.print(f"Send {place.enrolment.name} to the coordinator; then set `data` and `ceiling` in {place.config}.")


@app.command()
def check(home: HomeOption = _HOME) -> None:
    """Look at settings, keys, study, budget, data, timing, disk and the coordinator before a study."""
    from .check import preflight

    console = Console(highlight=False, soft_wrap=True)
    is_ok = True
    for finding in preflight(Home(home)):
        is_ok &= finding.is_ok
        console.print(f"{'ok     ' if finding.is_ok else 'not ok '} {finding.topic:<12} {finding.detail}", markup=False)
    if not is_ok:
        raise typer.Exit(3)


@app.command()
def run(home: HomeOption = _HOME) -> None:
    """Run the agent and the node until interrupted; either is started again when it ends."""
    from .supervise import supervise

    place = Home(home)
    config = place.load()
    place.load_study(config)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"site {config.site}: running; stop with Ctrl-C")
    supervise(place, config, _stopped(), lambda text: console.print(f"site {config.site}: {text}", markup=False))


@app.command()
def agent(home: HomeOption = _HOME) -> None:
    """Run the agent alone: it has the records and no network (for two users, containers or units)."""
    from .isolation import leave_network

    is_isolated = leave_network()  # before torch starts threads
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger(__name__).info(
        "network: %s", "none (own namespace)" if is_isolated else "not closed by the kernel; close it from outside"
    )
    import torch

    from .channel import serve
    from .site import open_agent

    torch.set_num_threads(1)  # several agents may share a machine, and one thread's sums have one order
    torch.use_deterministic_algorithms(True)
    place, stopped = Home(home), _stopped()
    with open_agent(place) as opened:
        logging.getLogger(__name__).info("ready: study %s", opened.policy.study.name)
        serve(opened, place.socket, stopped)


@app.command()
def node(home: HomeOption = _HOME) -> None:
    """Run the Flower node alone: it has the network and no records."""
    from synthfed.plugins.processes import flower_environment

    from .supervise import node_command

    place = Home(home)
    command = node_command(place, place.load())
    sys.stdout.flush()
    os.execvpe(command[0], command, flower_environment(place.path / "flwr"))  # noqa: S606 - no shell, a fixed program


@app.command()
def clear(home: HomeOption = _HOME) -> None:
    """Let the agent serve again after it died inside a step; its charges stand."""
    from .vault import Ledger, exclusive

    place = Home(home)
    with exclusive(place.lock):
        ledger = Ledger(place.ledger)
        steps = ledger.unsettled()
        for sequence in steps:
            ledger.settle(sequence, "cleared")
        ledger.close()
    Console(highlight=False).print(f"{len(steps)} interrupted step(s) cleared; their charges stand")


def _stopped() -> Callable[[], bool]:
    """Return a function that tells whether SIGINT or SIGTERM has come."""
    event = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: event.set())
    return event.is_set
