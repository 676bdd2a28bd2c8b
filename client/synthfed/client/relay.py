"""The relay: pipes frames between the coordinator's TLS stream and the agent's socket.

Never reads a frame's content, and has no data: it runs beside whatever code a coordinator ships.
"""

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc

from synthfed.protocols.wire import LONGEST_FRAME, STEPS_CALL, STEPS_SERVICE

from .channel import connect, read_frame

OPTIONS: Final = (
    ("grpc.max_send_message_length", LONGEST_FRAME),
    ("grpc.max_receive_message_length", LONGEST_FRAME),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
)


def relay_session(address: str, ca: bytes, token: str, site: str, agent_socket: Path) -> str:
    """Pipe one session's frames until the coordinator ends it; return how it ended.

    Args:
        address: the coordinator's step service, ``host:port``.
        ca: the certificate authority in PEM that the site pinned when it was invited.
        token: admits one stream of one session.
        site: this site's name.
        agent_socket: where the agent listens.

    Raises:
        TransportError: the agent does not answer.
        RemoteProtocolError: the agent sent something that is not a frame.
    """
    outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    credentials = grpc.ssl_channel_credentials(root_certificates=ca)
    with connect(agent_socket) as agent, grpc.secure_channel(address, credentials, options=OPTIONS) as channel:
        open_stream = channel.stream_stream(f"/{STEPS_SERVICE}/{STEPS_CALL}")
        frames = open_stream(_until_none(outbox), metadata=(("token", token), ("site", site)))
        try:
            for frame in frames:
                agent.sendall(frame)
                reply = read_frame(agent)
                if not reply:
                    return "agent-closed"
                outbox.put(reply)
        except grpc.RpcError as error:
            return f"stream-{error.code().name.lower()}"
        finally:
            outbox.put(None)
    return "ended"


def relay_frame(frame: bytes, agent_socket: Path) -> bytes:
    """Return the agent's reply to one frame, over a connection of its own; empty where it closed."""
    with connect(agent_socket) as agent:
        agent.sendall(frame)
        return read_frame(agent)


def _until_none(outbox: "queue.SimpleQueue[bytes | None]") -> Iterator[bytes]:
    while (frame := outbox.get()) is not None:
        yield frame
