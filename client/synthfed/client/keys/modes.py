"""Who can reach a home: its folders are for their owner alone (mode 0700), and so is every file of the site (0600).

Never looks at the data, nor at what the Flower node makes for itself, and never changes a mode.
"""

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from synthfed.protocols.errors import ConfigError

from ..config import Home
from .identity import next_identity

_MOST_NAMED: Final = 4


def demand_private(home: Home) -> None:
    """Raise ConfigError, with the command to run, where others can reach what is the site's, or own it."""
    wide = [(path, mode) for path, mode in _modes(home) if mode & 0o077]
    if not wide:
        return
    path, mode = wide[0]
    more = f", and {len(wide) - 1} more can" if len(wide) > 1 else ""
    named = [str(path) for path, _ in wide]
    command = ["chmod", "go=", *named] if len(named) <= _MOST_NAMED else ["chmod", "-R", "go=", str(home.path)]
    kind = "entered" if stat.S_ISDIR(mode) else "reached"
    raise ConfigError(
        f"can be {kind} by others (mode {stat.S_IMODE(mode):04o}){more}; run `{shlex.join(command)}`", where=str(path)
    )


def _modes(home: Home) -> Iterator[tuple[Path, int]]:
    """Yield each folder and file of the site that is there, with its mode; ConfigError where another user owns it."""
    for path in _owned(home):
        try:
            found = path.stat()
        except (FileNotFoundError, PermissionError):  # what is missing, or the node's alone, is for others to say
            continue
        if found.st_uid != os.geteuid() and not path.is_relative_to(home.node):
            raise ConfigError(
                f"belongs to another user (number {found.st_uid}); work as that user, or `chown` it",
                where=str(path),
            )
        yield path, found.st_mode


def _owned(home: Home) -> Iterator[Path]:
    yield from (home.path, home.node, home.decisions)
    yield from (home.identity, next_identity(home.identity), home.config, home.lock, home.agent_log, home.node_key)
    for record in (home.ledger, home.audit_log):
        yield from sorted(record.parent.glob(f"{record.stem}.*"))  # the record, its mark, and what SQLite puts there
    yield from sorted(home.decisions.glob("*"))
