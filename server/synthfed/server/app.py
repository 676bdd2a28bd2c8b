"""The Flower ServerApp: it opens sessions with the sites' nodes and runs the study's training.

Never imports the client, and lets Flower carry nothing but session invitations (or opaque frames).
"""

import logging
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from synthfed.plugins.pinning import pin
from synthfed.plugins.processes import end_with_parent
from synthfed.protocols.errors import SynthfedError

from .guarded import GuardedTrainer
from .link import Link
from .store import Run
from .stream import SessionLink
from .training import Training, Waiting

_LOG: Final = logging.getLogger(__name__)
_POLL_S: Final = 0.2
_RETRY_S: Final = 2.0
_PARTING_S: Final = 5.0
_FIRST_REPLY_S: Final = 60.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study whose folder the operator named; how it ended stands in that folder's status."""
    end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run = Run(Path(str(context.run_config["run"])))
    status = run.status()
    try:
        _conduct(grid, run, str(context.run_config["transport"]))
    except SynthfedError as error:
        status = run.status()
        status.phase, status.message, status.error = "paused", str(error), type(error).__name__
        run.report(status)
    except BaseException as error:
        status = run.status()
        status.phase, status.error = "failed", type(error).__name__
        status.message = f"the coordinator failed ({type(error).__name__}), a bug; the details are in its log"
        run.report(status)
        raise


def _conduct(grid: Grid, run: Run, transport: str) -> None:
    import torch

    torch.set_num_threads(1)
    study, settings = run.study(), run.settings()
    pinned = pin(study)
    trainer = GuardedTrainer(pinned.plugin, pinned.model, settings["seed"])
    sites = frozenset(study.cohort.roster)
    link: Link = MessagesLink(grid, sites) if transport == "messages" else _Sessions(grid, settings, sites)
    try:
        waiting = Waiting(settings["wait_all_s"], settings["wait_quorum_s"])
        fresh = lambda: secrets.token_bytes(32)  # noqa: E731
        Training(pinned.policy, trainer, link, run, fresh, waiting).run()
    finally:
        link.close()


class _Sessions(SessionLink):
    """The step service, with one open session message per node: a node that comes back is invited again."""

    def __init__(self, grid: Grid, settings: Mapping[str, Any], sites: frozenset[str]) -> None:
        certificate, key = (Path(settings[name]).read_bytes() for name in ("certificate", "key"))
        super().__init__(settings["steps_bind"], certificate, key, sites)
        self._grid = grid
        self._address = settings["steps_address"]
        self._closing = threading.Event()
        self._invited: dict[str, tuple[int, str]] = {}
        self._thread = threading.Thread(target=self._invite, name="sessions", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the streams and wait a moment for the relays' replies."""
        self._closing.set()
        super().close()
        self._thread.join(_PARTING_S)

    def _invite(self) -> None:
        """Keep one session message open at every node until closing, then collect the last replies."""
        not_before: dict[int, float] = {}
        deadline = float("inf")
        while time.monotonic() < deadline:
            if self._closing.is_set():
                deadline = min(deadline, time.monotonic() + _PARTING_S)
            try:
                self._collect_ends(not_before)
                if self._closing.is_set() and not self._invited:
                    return
                if not self._closing.is_set():
                    self._invite_idle(not_before)
            except Exception as error:  # noqa: BLE001 - whatever the SuperLink answered: it may be well later
                _LOG.warning("the SuperLink could not be asked (%s); asking again", type(error).__name__)
                time.sleep(_RETRY_S)
            time.sleep(_POLL_S)

    def _invite_idle(self, not_before: Mapping[int, float]) -> None:
        busy = {node for node, _ in self._invited.values()}
        ready = [node for node in self._grid.get_node_ids() if node not in busy]
        self._push([node for node in ready if time.monotonic() >= not_before.get(node, 0.0)])

    def _push(self, nodes: list[int]) -> None:
        for node in nodes:
            token = self.admit()
            content = RecordDict({"session": ConfigRecord({"address": self._address, "token": token})})
            message = Message(content, dst_node_id=node, message_type="train.session")
            for identifier in self._grid.push_messages([message]):
                self._invited[identifier] = (node, token)

    def _collect_ends(self, not_before: dict[int, float]) -> None:
        if not self._invited:
            return
        for reply in self._grid.pull_messages(list(self._invited)):
            node, token = self._invited.pop(reply.metadata.reply_to_message_id)
            self.revoke(token)
            not_before[node] = time.monotonic() + _RETRY_S
            ended = "node-error" if reply.has_error() else str(reply.content["session"]["ended"])
            _LOG.info("session of node %d: %s", node, ended)


class MessagesLink:
    """Steps as Flower messages: for sites that cannot reach a second port. Seconds per step, not milliseconds."""

    def __init__(self, grid: Grid, sites: frozenset[str]) -> None:
        """Learn which node speaks for which site, from one empty step."""
        self._grid = grid
        self._sites = sites
        self._nodes: dict[str, int] = {}
        self._pending: dict[str, str] = {}
        self._asked: set[int] = set()
        self._greetings: dict[str, int] = {}

    def connected(self) -> frozenset[str]:
        """Return the sites whose node has answered."""
        nodes = set(self._grid.get_node_ids())
        for node in nodes - self._asked:
            self._greetings[self._push(node, b"")] = node
        self._asked |= nodes
        for identifier, frame, site in self._pull(self._greetings):
            node = self._greetings.pop(identifier)
            if site in self._sites and not frame:
                self._nodes[site] = node
        return frozenset(site for site, node in self._nodes.items() if node in nodes)

    def post(self, frames: Mapping[str, bytes], sequence: int) -> None:  # noqa: ARG002 - replies name their message
        """Push each site's frame as a message."""
        self._pending = {
            self._push(self._nodes[site], frame): site for site, frame in frames.items() if site in self._nodes
        }

    def collect(self, timeout_s: float) -> Iterator[tuple[str, bytes]]:
        """Yield the replies that come in time."""
        deadline = time.monotonic() + timeout_s + _FIRST_REPLY_S  # a process starts at the node for every message
        waiting = dict(self._pending)
        while waiting and time.monotonic() < deadline:
            for identifier, frame, _ in self._pull(waiting):
                site = waiting.pop(identifier)
                handed_over_s = time.monotonic()
                if frame:
                    yield site, frame
                deadline += time.monotonic() - handed_over_s
            time.sleep(0.02)

    def close(self) -> None:
        """Nothing stays open between messages."""

    def _push(self, node: int, frame: bytes) -> str:
        content = RecordDict({"step": ConfigRecord({"frame": frame})})
        (identifier,) = self._grid.push_messages([Message(content, dst_node_id=node, message_type="train.step")])
        return identifier

    def _pull(self, waiting: Mapping[str, object]) -> list[tuple[str, bytes, str]]:
        if not waiting:
            return []
        found = []
        for reply in self._grid.pull_messages(list(waiting)):
            record: Mapping[str, Any] = {} if reply.has_error() else reply.content["step"]
            found.append(
                (reply.metadata.reply_to_message_id, bytes(record.get("frame", b"")), str(record.get("site", "")))
            )
        return found
