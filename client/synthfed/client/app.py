"""The Flower ClientApp of a site's node: it starts the relay and nothing else.

Never opens a file but the pinned certificate, and lets no error text leave the site.
"""

from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from synthfed.plugins.processes import end_with_parent
from synthfed.protocols.errors import SynthfedError

from .relay import relay_frame, relay_session

app = ClientApp()


@app.train("session")
def session(message: Message, context: Context) -> Message:
    """Pipe one session's frames; the reply says only how it ended."""
    end_with_parent()
    asked = message.content["session"]
    node = context.node_config
    try:
        ended = relay_session(
            str(asked["address"]),
            Path(str(node["ca"])).read_bytes(),
            str(asked["token"]),
            str(node["site"]),
            Path(str(node["socket"])),
        )
    except (SynthfedError, OSError):
        ended = "agent-unreachable"
    return Message(RecordDict({"session": ConfigRecord({"ended": ended})}), reply_to=message)


@app.train("step")
def step(message: Message, context: Context) -> Message:
    """Pipe one frame: the slow way, where a site cannot reach a second port. No frame only asks who this is."""
    end_with_parent()
    try:
        frame = message.content["step"]["frame"]
        reply = (
            relay_frame(frame, Path(str(context.node_config["socket"]))) if isinstance(frame, bytes) and frame else b""
        )
    except (SynthfedError, OSError):
        reply = b""
    answer = ConfigRecord({"frame": reply, "site": str(context.node_config["site"])})
    return Message(RecordDict({"step": answer}), reply_to=message)
