"""A site's machine in the preflight: keys and folder, disk, confinement, and the way to the coordinator.

Never reads a record or a study, and leaves this process with its network and files.
"""

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Final

from ..config import Home, SiteConfig, private_paths
from ..keys.modes import demand_private
from ..supervise import connect, unreachable
from .findings import Finding, attempt

_LEAST_FREE_BYTES: Final = 500 * 2**20
_CLOCK_TOLERANCE_S: Final = 300.0
_PROBE_S: Final = 30.0

# In processes of their own, for each changes its process for good.
_LEAVE_NETWORK: Final = """\
import sys
from synthfed.client.namespaces import leave_network
sys.exit(not leave_network())
"""
_HIDE_FILES: Final = """\
import os, sys
from pathlib import Path
from synthfed.client.namespaces import hide_files
home, node, *data = map(Path, sys.argv[1:])
os.chdir("/")
sys.exit(not hide_files(home, node, data))
"""


def look_at_keys(home: Home) -> Iterator[Finding]:
    """Look whether all that is the site's is private, the node key there, and the socket's path short enough."""
    if not home.node_key.exists():
        yield Finding("keys", False, f"{home.node_key}: is missing; restore it from your backup")
    _, finding = attempt("socket", lambda: home.socket, "its path is short enough")
    if not finding.is_ok:
        yield finding
    _, finding = attempt("keys", lambda: demand_private(home), "folders and files are for their owner alone")
    yield finding


def look_at_disk(home: Home) -> Finding:
    """Look whether there is room for ledger, log and journal."""
    free = shutil.disk_usage(home.path).free
    detail = f"{free / 2**30:.1f} GiB free"
    return Finding("disk", free >= _LEAST_FREE_BYTES, detail + ("" if free >= _LEAST_FREE_BYTES else "; make room"))


def look_at_confinement(home: Home, config: SiteConfig) -> Finding:
    """Look whether the kernel can take the network from the agent and this home from the node."""
    private, finding = attempt("confinement", lambda: private_paths(home, config), "")
    if private is None:
        return finding
    files = [home.path.absolute(), home.node.absolute(), *private]
    problems = []
    if not _succeeds(_LEAVE_NETWORK):
        problems.append("this kernel leaves the agent its network: close it from outside, as a container can")
    if not _succeeds(_HIDE_FILES, *map(str, files)):
        problems.append(
            "this kernel cannot hide this home from the node: run `client node` as another user or on another "
            "machine, or accept it with --allow-unconfined"
        )
    well = "the agent can give up its network, and the node can lose sight of this home"
    return Finding("confinement", not problems, "; ".join(problems) or well)


def _succeeds(python: str, *arguments: str) -> bool:
    command = [sys.executable, "-c", python, *arguments]
    try:
        return subprocess.run(command, capture_output=True, timeout=_PROBE_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def look_at_coordinator(home: Home, config: SiteConfig) -> Iterator[Finding]:
    """Look whether the coordinator answers under the pinned authority, and whether the clocks agree."""
    well = f"{config.coordinator.address} answers under the pinned authority"
    date, finding = attempt("coordinator", lambda: _date(home, config), well)
    yield finding
    if date is None:
        return
    with contextlib.suppress(ValueError):  # no date, or none that can be read
        apart_s = abs(time.time() - parsedate_to_datetime(date).timestamp())
        detail = f"{apart_s:.0f} s from the coordinator's"
        is_ok = apart_s <= _CLOCK_TOLERANCE_S
        yield Finding("clock", is_ok, detail if is_ok else detail + "; set this machine's time")


def _date(home: Home, config: SiteConfig) -> str:
    """Return what the coordinator's health service says the date is; nothing where it does not say."""
    with contextlib.closing(connect(home, config)) as connection:
        try:
            connection.request("GET", "/health")
            return connection.getresponse().getheader("Date", "")
        except (OSError, HTTPException) as error:
            raise unreachable(home, config, error) from None
