"""Takes the network away from the agent's own process, where the kernel permits it.

Never pretends: it returns whether the process really is in a network namespace of its own.
"""

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

_NEW_NETWORK: Final = 0x40000000
_NEW_USER: Final = 0x10000000


def leave_network() -> bool:
    """Move this process to an empty network namespace and return whether that worked.

    Unix sockets in the file system go on working; every other address becomes unreachable. Must
    be called before the process starts a thread. Without root it needs user namespaces (Linux).
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_USER | _NEW_NETWORK) != 0:
        return False
    process = Path("/proc/self")
    (process / "setgroups").write_text("deny")
    (process / "uid_map").write_text(f"{user} {user} 1")
    (process / "gid_map").write_text(f"{group} {group} 1")
    return True
