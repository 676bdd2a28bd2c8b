"""The transport port: how frames reach sites and replies come back, and its in-memory form.

Never looks into a frame but at its sequence number.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
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

    def collect(self, timeout_s: float) -> Iterator[tuple[str, bytes]]:
        """Yield each site's reply to the last post as it comes, one a site.

        Ends when all came, the others are lost, or the time is over; what the caller does between two replies
        costs none that is here by then.
        """
        ...

    def close(self) -> None:
        """End all connections."""
        ...


class MemoryLink:
    """Sites in this process, for `synthfed simulate` and for tests, which wrap it to drop, delay or lie."""

    def __init__(self, sites: Mapping[str, Answer], threads: int = 1, *, is_patient: bool = False) -> None:
        """Connect to all sites; a patient link waits for every answer, so that no result hangs on the load.

        Sites that compute with torch share one thread: making a module takes the lock of the process's random
        generator, and two threads that do so can wait for each other for ever (one collects garbage under the lock).
        """
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

    def collect(self, timeout_s: float) -> Iterator[tuple[str, bytes]]:
        """Yield the replies that are ready in time; a site's own failure ends the simulation."""
        deadline = time.monotonic() + timeout_s
        while self._waiting:
            left_s = None if self._is_patient else max(0.0, deadline - time.monotonic())
            done, _ = wait(self._waiting.values(), left_s, return_when=FIRST_COMPLETED)
            if not done:
                return
            for site in [site for site, reply in self._waiting.items() if reply in done]:
                del self._last[site]  # what is handed over is kept nowhere
                yield site, self._waiting.pop(site).result()

    def close(self) -> None:
        """Wait for the threads."""
        self._pool.shutdown()
