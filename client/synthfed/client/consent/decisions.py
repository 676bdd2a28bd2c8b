"""The folder of decisions in a site's home: one signed file each.

Never overwrites or removes a decision, and never leaves out one that it cannot read without saying so.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from synthfed.plugins.files import make_private_folder, write_whole
from synthfed.protocols.approval import LATEST_UNIX_S, Decision
from synthfed.protocols.errors import ConfigError

from .words import plain

TOLERANCE_S: Final = 86_400
"""How far a decision may be ahead of this machine's clock: further, nothing later could overtake it."""

_LARGEST_BYTES: Final = 2**16

State = tuple[tuple[str, int, int, int, int, int], ...]


def read_decisions(folder: Path) -> tuple[list[Decision], list[str]]:
    """Return the decisions whose signatures hold, and what is wrong with every other file.

    Files whose names begin with a dot are none: such a one is on its way to its true name.
    """
    found, problems = [], []
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return [], []
    except OSError as error:
        return [], [f"{folder}: cannot be read: {error.strerror}"]
    for path in files:
        try:
            found.append(Decision.parse(_content(path), where=plain(str(path))))
        except ConfigError as error:
            problems.append(str(error))
    return found, problems


def write_decision(folder: Path, decision: Decision) -> Path:
    """Write a decision under a name of its own and return where it lies.

    Raises:
        ConfigError: the folder cannot be written to, or others can enter it.
    """
    make_private_folder(folder)
    # The signature makes the name that of this content: an equal name is the same decision, and nothing is replaced.
    mark = decision.study[:12], f"{decision.at_unix_s:010}", decision.decision, _letters(decision.signature)
    path = folder / ("-".join(mark) + ".json")
    if not path.exists():
        write_whole(path, [decision.content], private=True)
    return path


def next_time(decisions: Iterable[Decision], study: str, remembered_unix_s: int, now_unix_s: int) -> int:
    """Return the time of a new decision: now, and after all earlier ones whatever the machine's clock says.

    A block that is dated further ahead than any may be is not followed there: it stops all the same, and no approval
    could come after it.
    """
    latest = now_unix_s + TOLERANCE_S
    own = [each for each in decisions if each.study == study]
    earlier = [each.at_unix_s for each in own if each.decision == "approve" or each.at_unix_s <= latest]
    return min(LATEST_UNIX_S, max(now_unix_s, 1 + max([remembered_unix_s, *earlier])))


def state_of(folder: Path) -> State | None:
    """Return what changes when a decision comes, goes or is changed; None where that cannot be seen.

    Costs one look at each file's entry and reads none.
    """
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return ()
    except OSError:
        return None
    try:
        looked = [(path.name, path.stat()) for path in paths]
    except OSError:  # one of them went meanwhile: that is not the state of an empty folder
        return None
    # The time of the last change of an entry, unlike that of its content, no program can set.
    return tuple(sorted((name, s.st_mtime_ns, s.st_ctime_ns, s.st_size, s.st_ino, s.st_mode) for name, s in looked))


def _content(path: Path) -> bytes:
    if not path.is_file():  # a pipe would hold the agent for ever
        raise ConfigError("is not a file", where=plain(str(path)))
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=plain(str(path))) from None
    if len(content) > _LARGEST_BYTES:
        raise ConfigError("is too large for a decision", where=plain(str(path)))
    return content


def _letters(signature: str) -> str:
    return "".join(each for each in signature if each.isalnum())[:16]
