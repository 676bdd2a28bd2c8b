"""The transport port: how frames reach sites and replies come back, and its in-memory form.

Never looks into a frame but at its sequence number.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

Answer = Callable[[bytes], bytes]
"""A site in this process: a frame in, its reply out."""


class Link(Protocol):
    """Frames to sites and back; one outstanding frame per site."""

    def connected(self) -> frozenset[str]:
        """Return the sites that can be reached now."""
        ...

    def post(self, frames: Mapping[str, bytes], sequence: int) -> None:
        """Send each site its frame; replies with another sequence number are dropped from now on."""
        ...

    def collect(self, timeout_s: float) -> dict[str, bytes]:
        """Return the replies to the last post; waits until all came, a site is lost, or the time is over."""
        ...

    def close(self) -> None:
        """End all connections."""
        ...


class MemoryLink:
    """Sites in this process, for `synthfed simulate` and for tests, which wrap it to drop, delay or lie."""

    def __init__(self, sites: Mapping[str, Answer], threads: int = 2, *, is_patient: bool = False) -> None:
        """Connect to all sites; a patient link waits for every answer, so that no result hangs on the load."""
        self._is_patient = is_patient
        self._sites = dict(sites)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="site")
        self._waiting: dict[str, Future[bytes]] = {}
        self._last: dict[str, Future[bytes]] = {}

    def connected(self) -> frozenset[str]:
        """Return all sites."""
        return frozenset(self._sites)

    def post(self, frames: Mapping[str, bytes], sequence: int) -> None:  # noqa: ARG002 - nothing can come late
        """Let each site compute its reply in a thread, once it is done with its earlier frame."""
        wait([self._last[site] for site in frames if site in self._last])
        self._waiting = {site: self._pool.submit(self._sites[site], frame) for site, frame in frames.items()}
        self._last |= self._waiting

    def collect(self, timeout_s: float) -> dict[str, bytes]:
        """Return the replies that are ready in time; a site's own failure ends the simulation."""
        done, _ = wait(self._waiting.values(), None if self._is_patient else timeout_s)
        return {site: reply.result() for site, reply in self._waiting.items() if reply in done}

    def close(self) -> None:
        """Wait for the threads."""
        self._pool.shutdown()
