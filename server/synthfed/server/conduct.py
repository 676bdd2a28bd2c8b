"""The operator's ``server run``: start Flower, let the study train, publish the release.

Never loses a run: whatever ends it, its checkpoint stands and ``--resume`` goes on.
"""

import errno
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from synthfed.plugins.files import read_text
from synthfed.plugins.pinning import naming, pin
from synthfed.plugins.processes import exclusive, is_alive
from synthfed.protocols import errors
from synthfed.protocols.study import Study, parse_study

from .finish import check_place, finish
from .guarded import GuardedTrainer
from .home import ServerConfig, ServerHome
from .pictures import check_drawing
from .proposing import coordinator_key
from .revocation import demand_unrevoked
from .store import Run, Status
from .superlink import SuperLink, flower_app
from .unused import put_aside

_LOG: Final = logging.getLogger(__name__)
_POLL_S: Final = 0.2
_PASSING: Final = (errors.TransportError, errors.QuorumLost)
_SILENT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Request:
    """What the operator asks for.

    Attributes:
        study: the study file.
        out: where the release goes.
        rows: synthetic rows in the release.
        seed: fixes initial weights and the coordinator's draws.
        wait_s: how long to wait for all sites of the roster, then for a quorum to come back.
        transport: ``session`` or ``messages``.
        resume: go on from the last checkpoint.
    """

    study: Path
    out: Path
    rows: int
    seed: int
    wait_s: float
    transport: str
    resume: bool


def conduct(
    home: ServerHome,
    request: Request,
    watch: Callable[[Status], None],
    when_listening: Callable[[], None] = lambda: None,
) -> None:
    """Run a study to its release.

    Args:
        home: the coordinator's home.
        request: what to do.
        watch: called a few times a second with the run's status.
        when_listening: called once, when sites can connect.

    Raises:
        SynthfedError: the run paused or failed; its checkpoint stands.
    """
    config, key = home.load(), coordinator_key(home)
    text = read_text(request.study)
    study = parse_study(text, where=str(request.study))
    _check(home, study, request)
    superlink = SuperLink(home, config)
    with exclusive(home.path / "server.lock", "`server run`"):
        _check_ports(home, config, request)
        with superlink.running():
            with naming(str(request.study)):  # while the SuperLink is up: sites can connect in the meantime
                pinned = pin(study)
            check_drawing(pinned.domain, study.released.columns)
            # Only now: a port in use or wrong terms must not leave a run behind that was never begun.
            folder = home.run_folder(study.name)
            aside = None if request.resume else put_aside(folder)  # nobody writes there: the ports are ours
            if aside is not None:
                _LOG.warning("%s: an earlier run had asked no site for anything; it is now %s", folder, aside.name)
            run = Run.begin(folder, text, _settings(home, config, request), resume=request.resume)
            superlink.register(_node_keys(home, study))
            when_listening()
            number = superlink.submit(flower_app(), run.folder, request.transport)
            try:
                _follow(superlink, run, watch)
            except BaseException:
                superlink.stop(number)
                raise
    trainer = GuardedTrainer(pinned.plugin, pinned.model, request.seed)
    finish(run, pinned, trainer, request.out, request.rows, request.seed, key)


def _follow(superlink: SuperLink, run: Run, watch: Callable[[Status], None]) -> None:
    """Watch a run until it has trained; a run that paused, failed or fell silent becomes an error."""
    while True:
        superlink.check()
        status = run.status()
        watch(status)
        if status.phase == "trained":
            return
        if status.phase == "failed":
            raise errors.LocalProtocolError(f"{status.message}: {superlink.children[1].log}")
        if status.phase == "paused":
            raise _rebuilt(_kind(status.error), status.message)
        if status.pid and (not is_alive(status.pid) or time.time() - status.at_unix_s > _SILENT_S):
            raise errors.TransportError("the coordinator's process died; the checkpoint stands: go on with --resume")
        time.sleep(_POLL_S)


def _kind(name: str) -> type[errors.SynthfedError]:
    """Return the error class of that name, wherever it is defined; TransportError where none of ours has it."""
    kinds = [errors.SynthfedError]
    for kind in kinds:  # grows as it goes: subclasses, then theirs
        kinds += kind.__subclasses__()
    return next((kind for kind in kinds if kind.__name__ == name), errors.TransportError)


def _rebuilt(kind: type[errors.SynthfedError], message: str) -> errors.SynthfedError:
    """Return an error of the kind that ended the run in its own process, with its message as it was."""
    error = kind.__new__(kind)
    advice = "; the checkpoint stands: go on with --resume" if kind in _PASSING else ""
    Exception.__init__(error, message + advice)
    return error


def _check(home: ServerHome, study: Study, request: Request) -> None:
    """Refuse what could only fail later: a draft, an unknown site, a revoked key, a taken place for the release."""
    if study.is_draft:
        raise errors.ConfigError("is a draft: a site of its roster has no key yet", where=str(request.study))
    demand_unrevoked(home.revoked, study.cohort.sites, where=str(request.study))
    enrolled = home.sites()
    for site in study.cohort.sites:
        known = enrolled.get(site.id)
        if known is None:
            raise errors.ConfigError(
                f"site {site.id!r} is not enrolled; run `synthfed server enroll FILE`", where=str(request.study)
            )
        if known.roster_entry.public_key != site.public_key:
            raise errors.ConfigError(f"site {site.id!r} is enrolled with another key", where=str(request.study))
    check_place(request.out)


def _check_ports(home: ServerHome, config: ServerConfig, request: Request) -> None:
    """Refuse a port that is not free before Flower starts; the step service would only find out after it."""
    ports = {"port": config.port} | ({"steps_port": config.steps_port} if request.transport == "session" else {})
    for field, port in ports.items():
        with socket.socket() as probe:
            # As servers do: a port that an earlier run has just left is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((config.bind, port))
            except OSError as error:
                where, advice = field, f"choose another `{field}`"
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    where, advice = "bind", "give an address of this machine, or 0.0.0.0 for all"
                message = f"cannot listen on {config.bind}:{port}: {error.strerror}; {advice}"
                raise errors.ConfigError(message, where=f"{home.config}: {where}") from None


def _settings(home: ServerHome, config: ServerConfig, request: Request) -> dict[str, object]:
    path = home.path.absolute()
    return {
        "seed": request.seed,
        "wait_all_s": request.wait_s,
        "wait_quorum_s": request.wait_s,
        "steps_bind": f"{config.bind}:{config.steps_port}",
        "steps_address": config.steps_address,
        "certificate": str(path / "server.crt"),
        "key": str(path / "server.key"),
    }


def _node_keys(home: ServerHome, study: Study) -> list[Path]:
    """Write each site's node key as a file that Flower's command can read, and return them."""
    folder = home.path / "nodes"
    folder.mkdir(exist_ok=True)
    enrolled = home.sites()
    files = []
    for site in study.cohort.roster:
        file = folder / f"{site}.pub"
        file.write_text(enrolled[site].node + "\n", encoding="utf-8")
        files.append(file)
    return files
