"""The step service: one TLS gRPC stream per site, dialled by its relay, carrying opaque frames.

Never admits a stream without a one-time token, and never interprets a frame.
"""

import queue
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from synthfed.protocols.errors import ConfigError, RemoteProtocolError
from synthfed.protocols.wire import HEADER, LONGEST_FRAME, STEPS_CALL, STEPS_SERVICE, read_header

_OPTIONS: Final = (
    ("grpc.max_send_message_length", LONGEST_FRAME),
    ("grpc.max_receive_message_length", LONGEST_FRAME),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
)


@dataclass(eq=False, slots=True)
class _Stream:
    site: str
    outbox: "queue.SimpleQueue[bytes | None]" = field(default_factory=queue.SimpleQueue)


class SessionLink:
    """The coordinator's end of all sites' streams; implements the transport port."""

    def __init__(self, bind: str, certificate: bytes, key: bytes, sites: frozenset[str]) -> None:
        """Listen on ``bind`` (host:port) for streams of the given sites; ConfigError if the port is taken."""
        self._sites = sites
        self._tokens: set[str] = set()
        self._streams: dict[str, _Stream] = {}
        self._changed = threading.Condition()
        self._inbox: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._expected: dict[str, _Stream] = {}
        self._sequence = 0
        pool = ThreadPoolExecutor(2 * len(sites) + 4, thread_name_prefix="stream")
        self._server = grpc.server(pool, options=_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._relay)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(STEPS_SERVICE, {STEPS_CALL: handler}),)
        )
        credentials = grpc.ssl_server_credentials([(key, certificate)])
        try:
            self.port = self._server.add_secure_port(bind, credentials)
        except RuntimeError:
            raise ConfigError(
                f"{bind} cannot be listened on; another program may use the port", where="steps_port"
            ) from None
        self._server.start()

    def admit(self) -> str:
        """Return a new token that admits one stream."""
        token = secrets.token_hex(16)
        with self._changed:
            self._tokens.add(token)
        return token

    def revoke(self, token: str) -> None:
        """Make an unused token worthless."""
        with self._changed:
            self._tokens.discard(token)

    def connected(self) -> frozenset[str]:
        """Return the sites with a standing stream."""
        with self._changed:
            return frozenset(self._streams)

    def post(self, frames: Mapping[str, bytes], sequence: int) -> None:
        """Queue each connected site's frame."""
        with self._changed:
            self._sequence = sequence
            self._expected = {site: self._streams[site] for site in frames if site in self._streams}
        for site, stream in self._expected.items():
            stream.outbox.put(frames[site])

    def collect(self, timeout_s: float) -> Iterator[tuple[str, bytes]]:
        """Yield the replies to the last post that come in time, without waiting for lost sites."""
        deadline = time.monotonic() + timeout_s
        replied: set[str] = set()
        while time.monotonic() < deadline:
            with self._changed:
                awaited = {
                    s for s, stream in self._expected.items() if self._streams.get(s) is stream and s not in replied
                }
            if not awaited:
                break
            try:
                site, frame = self._inbox.get(timeout=min(0.25, max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                continue
            if site in self._expected.keys() - replied and _sequence(frame) == self._sequence:
                replied.add(site)
                handed_over_s = time.monotonic()
                yield site, frame
                deadline += time.monotonic() - handed_over_s

    def close(self) -> None:
        """End every stream, which makes the relays return, and stop listening."""
        with self._changed:
            streams = list(self._streams.values())
        for stream in streams:
            stream.outbox.put(None)
        self._server.stop(grace=2.0).wait()

    def _relay(self, incoming: Iterator[bytes], context: Any) -> Iterator[bytes]:
        metadata = dict(context.invocation_metadata())
        stream = self._enter(str(metadata.get("token", "")), str(metadata.get("site", "")))
        if stream is None:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no such session")
            return
        context.add_callback(lambda: self._leave(stream))
        threading.Thread(target=self._read, args=(stream, incoming), daemon=True).start()
        while (frame := stream.outbox.get()) is not None:
            yield frame

    def _enter(self, token: str, site: str) -> _Stream | None:
        """Register a stream under its one-time token; a site's newer stream replaces its older one."""
        with self._changed:
            if token not in self._tokens or site not in self._sites:
                return None
            self._tokens.remove(token)
            older = self._streams.pop(site, None)
            stream = self._streams[site] = _Stream(site)
        if older is not None:
            older.outbox.put(None)
        return stream

    def _leave(self, stream: _Stream) -> None:
        stream.outbox.put(None)
        with self._changed:
            if self._streams.get(stream.site) is stream:
                del self._streams[stream.site]

    def _read(self, stream: _Stream, incoming: Iterator[bytes]) -> None:
        try:
            for frame in incoming:
                self._inbox.put((stream.site, frame))
        except grpc.RpcError:
            pass  # the relay is gone; the callback takes the stream out
        finally:
            self._leave(stream)


def _sequence(frame: bytes) -> int:
    """Return a frame's sequence number, -1 where it is not a frame."""
    try:
        return read_header(frame[: HEADER.size])[1] if len(frame) >= HEADER.size else -1
    except RemoteProtocolError:
        return -1
