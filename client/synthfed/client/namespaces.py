"""Linux namespaces: the agent without a network, the node without the site's files.

Never pretends: each function returns whether the kernel did what was asked.
"""

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_NEW_MOUNTS: Final = 0x00020000  # flags of unshare(2)
_NEW_USER: Final = 0x10000000
_NEW_NETWORK: Final = 0x40000000
_BIND: Final = 0x1000  # flags of mount(2)
_RECURSIVE: Final = 0x4000
_PRIVATE: Final = 1 << 18
_SET_DUMPABLE: Final = 4  # PR_SET_DUMPABLE of prctl(2)


def leave_network() -> bool:
    """Move this process to an empty network namespace and return whether that worked.

    Unix sockets in the file system go on working; every other address becomes unreachable. Must
    be called before the process starts a thread. Without root it needs user namespaces. The process
    also becomes closed to debuggers of the same user.
    """
    libc = _libc()
    if libc is None:
        return False
    has_left = bool(libc.unshare(_NEW_NETWORK) == 0) or _enter(libc, _NEW_NETWORK)
    close_to_debuggers()  # only now: an undumpable process may not write its own user map
    return has_left


def close_to_debuggers() -> None:
    """Close this process's memory to other processes of its user (Linux; elsewhere nothing happens)."""
    libc = _libc()
    if libc is not None:
        libc.prctl(_SET_DUMPABLE, 0)


def hide_files(home: Path, visible: Path, hidden: Sequence[Path]) -> bool:
    """Give this process a view of the file system without a site's home and return whether that worked.

    Args:
        home: a folder that becomes empty, but for ``visible``.
        visible: a folder inside the home that stays as it is.
        hidden: further files that read as empty, and folders that become empty; what links in such a folder
            point to stays as it is (`data.check_links` refuses the ones that lead outside).

    What the process executes afterwards cannot undo it: the view belongs to a user namespace that
    it is then taken out of. Root should not run a node: it could read the disk itself.
    """
    libc = _libc()
    if libc is None or not (libc.unshare(_NEW_MOUNTS) == 0 or _enter(libc, _NEW_MOUNTS)):
        return False
    # Before the first mount: what is reached by a link in a hidden place could not be found after it, and would show.
    targets = [path.resolve() for path in hidden if path.exists()]
    return _mount_view(libc, home.resolve(), visible.resolve(), targets) and _enter(libc, _NEW_MOUNTS)


def _mount_view(libc: ctypes.CDLL, home: Path, visible: Path, hidden: Sequence[Path]) -> bool:
    def mount(source: str, target: Path, kind: str | None, flags: int) -> bool:
        name = None if kind is None else kind.encode()
        return bool(libc.mount(source.encode(), os.fsencode(target), name, flags, None) == 0)

    if not mount("none", Path("/"), None, _PRIVATE | _RECURSIVE):
        return False
    with tempfile.TemporaryDirectory(prefix="synthfed-node-") as name:
        aside = Path(name)
        if not (mount(str(visible), aside, None, _BIND) and mount("tmpfs", home, "tmpfs", 0)):
            return False
        visible.mkdir(parents=True)
        is_whole = mount(str(aside), visible, None, _BIND)
        libc.umount2(os.fsencode(aside), 0)
    outside = (path for path in hidden if path.exists())  # one by one: a hidden folder hides what is in it
    return is_whole and all(
        mount("tmpfs", path, "tmpfs", 0) if path.is_dir() else mount("/dev/null", path, None, _BIND) for path in outside
    )


def _enter(libc: ctypes.CDLL, flags: int) -> bool:
    """Enter a new user namespace, in which this user keeps its number, and further new namespaces."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_USER | flags) != 0:
        return False
    process = Path("/proc/self")
    with contextlib.suppress(OSError):  # already denied in a namespace inside another
        (process / "setgroups").write_text("deny")
    try:
        (process / "uid_map").write_text(f"{user} {user} 1")
        (process / "gid_map").write_text(f"{group} {group} 1")
    except OSError:
        return False
    return True


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None
