"""Runs that never asked a site for anything: they stand in no new run's way, and are put aside whole.

Never deletes a file, and never moves a run for which a site may have been charged.
"""

import itertools
from pathlib import Path
from typing import Final

from synthfed.plugins.files import sync
from synthfed.protocols.errors import ConfigError

from .store import Run

MARK: Final = "~unused-"
"""In the name of a folder that was put aside; no study's name holds a tilde."""


def put_aside(folder: Path) -> Path | None:
    """Rename a run's folder if nothing was ever asked in it, and return where it is now; else None.

    Raises:
        ConfigError: it cannot be renamed.
    """
    run = Run(folder)
    if not run.exists() or run.may_have_asked():
        return None
    places = (folder.with_name(f"{folder.name}{MARK}{number}") for number in itertools.count(1))
    place = next(each for each in places if not each.exists())
    try:
        folder.rename(place)
        sync(folder.parent)
    except OSError as error:
        raise ConfigError(
            f"holds a run that asked no site for anything, and cannot be renamed: {error.strerror}", where=str(folder)
        ) from None
    return place
