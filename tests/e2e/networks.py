"""Two hosts in network namespaces, a switch between them: a coordinator's and its sites', without another machine.

Never touches the network of this machine: all of it lies in namespaces that end with their last process.
"""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

HOST: Final = "10.77.0.1"
"""The coordinator's address."""
_SITES: Final = "10.77.0.2"
_TOOLS: Final = ("unshare", "nsenter", "ip")
_START_S: Final = 10.0


class Networks:
    """The two hosts; a command runs in one of them with its prefix before it."""

    def __init__(self) -> None:
        """Make both and the switch; OSError or CalledProcessError where the machine does not allow it."""
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            raise FileNotFoundError(f"{', '.join(missing)} is not installed")
        self._anchors: list[subprocess.Popen[bytes]] = []
        try:
            self._switch = self._host(["unshare", "--user", "--map-root-user", "--net"])
            self._ip("link", "add", "switch", "type", "bridge")
            self._ip("link", "set", "switch", "up")
            self.coordinator, self.sites = self._plugged("one", HOST), self._plugged("two", _SITES)
        except BaseException:
            self.close()
            raise

    def cut(self) -> None:
        """Stop the switch: from now on nothing that is sent arrives, and neither host is told."""
        self._ip("link", "set", "switch", "down")

    def mend(self) -> None:
        """Start it again."""
        self._ip("link", "set", "switch", "up")

    def close(self) -> None:
        """End what keeps the namespaces."""
        for anchor in reversed(self._anchors):
            anchor.kill()
            anchor.wait()

    def _plugged(self, port: str, address: str) -> list[str]:
        """Return what runs a command in a new host at a port of the switch."""
        host = self._host([*self._switch, "unshare", "--net"])
        self._ip("link", "add", port, "type", "veth", "peer", "name", "cable", "netns", str(self._anchors[-1].pid))
        self._ip("link", "set", port, "master", "switch", "up")
        for words in (["link", "set", "lo", "up"], ["address", "add", f"{address}/24", "dev", "cable"]):
            self._ip(*words, prefix=host)
        self._ip("link", "set", "cable", "up", prefix=host)
        return host

    def _host(self, command: list[str]) -> list[str]:
        """Start a process that keeps new namespaces, and return what runs a command in them."""
        anchor = subprocess.Popen([*command, "sleep", "infinity"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._anchors.append(anchor)
        prefix = ["nsenter", "--target", str(anchor.pid), "--user", "--net", "--preserve-credentials"]
        deadline = time.monotonic() + _START_S
        while "sleep" not in _command(anchor.pid):  # until then it stands outside
            if anchor.poll() is not None or time.monotonic() > deadline:
                raise OSError(
                    f"no network namespace: {(anchor.stderr and anchor.stderr.read().decode()) or ''}".strip()
                )
            time.sleep(0.01)
        return prefix

    def _ip(self, *arguments: str, prefix: list[str] | None = None) -> None:
        subprocess.run([*(prefix or self._switch), "ip", *arguments], check=True, capture_output=True)


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").partition("\0")[0]
