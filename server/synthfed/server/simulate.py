"""A whole federation in one process: the same agents, machines, ledgers and noise, without Flower.

Never imports the client: a site in memory comes by the entry point ``synthfed.sites``.
"""

import base64
import contextlib
import secrets
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol

import numpy.typing as npt
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.distributions import CORE, points
from synthfed.plugins.pinning import Pinned, pin
from synthfed.protocols.cohort import Site
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import SITE_ID
from synthfed.protocols.study import Study

from .drafting import with_sites
from .finish import check_place, finish
from .guarded import GuardedTrainer
from .link import MemoryLink
from .pictures import check_drawing
from .store import Run, Status, Tally
from .study_file import render_study
from .training import Training, Waiting

GROUP: Final = "synthfed.sites"


class SiteInMemory(Protocol):
    """A site in this process, as the client provides it."""

    @property
    def public_key(self) -> bytes:
        """The identity's public key."""
        ...

    def open(self, pinned: Pinned) -> None:
        """Read the data and take part in a study."""
        ...

    def answer(self, frame: bytes) -> bytes:
        """Return the reply to one frame."""
        ...

    def close(self) -> None:
        """Close the ledger."""
        ...


def simulate(
    study: Study,
    tables: Mapping[str, Path],
    out: Path,
    *,
    rows: int,
    seed: int,
    watch: Callable[[Status], None],
) -> Study:
    """Train a study on the tables of sites in this process, write its release, return the study as run.

    Args:
        study: the terms; its roster gives way to the given sites with fresh keys.
        tables: each site's table by name.
        out: where the release goes.
        rows: synthetic rows in the release.
        seed: fixes initial weights and the coordinator's draws; coins and noise stay secret.
        watch: called with the run's status.

    Raises:
        ConfigError: a site's name is none, the place is taken, or the terms do not fit the sites.
    """
    for site in tables:  # it becomes a folder's name
        if not SITE_ID.fullmatch(site):
            raise ConfigError(f"{site!r} must be 1-32 lower-case letters, digits and inner hyphens", where="--site")
    check_place(out)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="synthfed-simulate-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        sites = {site: _site(folder / site, site, table) for site, table in tables.items()}
        for each in sites.values():
            stack.callback(each.close)
        study = with_sites(study, [_entry(study, site, each) for site, each in sites.items()])
        pinned = pin(study)
        check_drawing(pinned.domain, study.released.columns)
        for each in sites.values():
            each.open(pinned)
        run = _PassingRun.begin(folder / "run", render_study(study), {}, resume=False, watch=watch)
        trainer = GuardedTrainer(pinned.plugin, pinned.model, seed)
        link = MemoryLink({site: each.answer for site, each in sites.items()}, is_patient=True)
        stack.callback(link.close)
        Training(pinned.policy, trainer, link, run, lambda: secrets.token_bytes(32), Waiting()).run()
        key = Ed25519PrivateKey.generate()  # a simulation has no coordinator: it seals what nobody should change
        finish(run, pinned, trainer, out, rows, seed, key, "simulation")
    return study


class _PassingRun(Run):
    """A run that nobody can go on with, as its sites end with this process: it keeps its checkpoint in memory."""

    def __init__(self, folder: Path, watch: Callable[[Status], None] | None = None) -> None:
        super().__init__(folder, watch)
        self._kept: tuple[dict[str, npt.NDArray[Any]], Tally] | None = None

    def note_asked(self, tally: Tally) -> None:
        """Note nothing: a crash takes the sites' ledgers with it."""

    def save(self, study: Study, state: Mapping[str, npt.NDArray[Any]], tally: Tally) -> None:  # noqa: ARG002
        """Keep the checkpoint."""
        self._kept = dict(state), tally

    def load(self, study: Study) -> tuple[dict[str, npt.NDArray[Any]], Tally] | None:  # noqa: ARG002
        """Return the last checkpoint, or None where there is none yet."""
        return self._kept


def _site(folder: Path, site: str, table: Path) -> SiteInMemory:
    own = [point for point in points(GROUP) if point.distribution == CORE]  # no other may stand in for a site
    if not own:
        raise ConfigError("the client is not installed; reinstall synthfed")
    made: SiteInMemory = metadata.EntryPoint(own[0].name, own[0].target, GROUP).load()(folder, site, table)
    return made


def _entry(study: Study, site: str, simulated: SiteInMemory) -> Site:
    controller = next((each.controller for each in study.cohort.sites if each.id == site), "")
    return Site(id=site, key=base64.b64encode(simulated.public_key).decode(), controller=controller)
