"""Flower's side of the comparison: its SecAgg+ mod and workflow with real messages, timed.

Never replaces a function of Flower's by one of ours but the transport.
"""

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Parameters, Scalar, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.compat.common import recorddict_compat
from flwr.server.client_manager import SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from tests.benchmarks.stopwatch import HARNESS, SERVER, Stopwatch, Traffic, count

# The part of the cohort with which a client shares keys; with all it is the complete graph, as ours is.
SHARES = {"SecAgg+ 2/3": 2 / 3, "SecAgg+ all": 1.0}
THRESHOLD = 2 / 3
FIRST_NODE = 2**62  # Flower's node ids are 64 bits wide
EXAMPLES = 100


class Loopback:
    """Stands where Flower's transport is: every message goes to its client's mod at once."""

    def __init__(self, nodes: list[int], update: npt.NDArray[np.float32]) -> None:
        """Make the clients; each trains to the same update."""
        self.contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in nodes}
        self.update = update
        self.watch, self.traffic = Stopwatch(), Traffic()

    def send_and_receive(self, sent: Iterable[Message], **_: object) -> list[Message]:
        """Return every client's reply."""
        with self.watch(HARNESS, "transport"):
            return [self._deliver(message) for message in sent]

    def _deliver(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        is_counted = node == next(iter(self.contexts))
        if is_counted:
            count(self.traffic, "down", size_bytes(message))
        arrived = message_from_proto(message_to_proto(message))
        stage = str(arrived.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE])
        with self.watch(str(node), stage):
            reply = secaggplus_mod(arrived, self.contexts[node], self._train)
        if is_counted:
            count(self.traffic, "up", size_bytes(reply))
        return message_from_proto(message_to_proto(reply))

    def _train(self, message: Message, _: Context) -> Message:
        with self.watch(HARNESS, "train"):
            trained = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([self.update]), EXAMPLES, {})
            return Message(recorddict_compat.fitres_to_recorddict(trained, keep_input=True), reply_to=message)


def size_bytes(message: Message) -> int:
    """Return the bytes of a message as Flower transfers it: as objects, each serialised."""
    return sum(len(each.deflate()) for each in get_all_nested_objects(message).values())


class Unaveraged(FedAvg):
    """Selects all clients; takes the sum that secure aggregation made, without its own average over it."""

    def aggregate_fit(self, *given: Any, **_: Any) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Return the first result: all are the sum."""
        _, results, _ = given
        return results[0][1].parameters, {}


class Theirs:
    """A federation of Flower's mods, and rounds of its workflow over it."""

    def __init__(self, name: str, sites: int, dim: int) -> None:
        """Make clients and the server's context; keys are agreed in every round."""
        self.name, self.sites = name, sites
        self.grid = Loopback(
            [FIRST_NODE + number for number in range(sites)],
            np.random.default_rng(0).normal(0, 0.01, dim).astype(np.float32),
        )
        self.model = ArrayRecord([np.zeros(dim, dtype=np.float32)])

    def round(self) -> tuple[Stopwatch, Traffic]:
        """Add up once, and check the mean."""
        self.grid.watch, self.grid.traffic = Stopwatch(), Traffic()
        context, grid = self._context(), cast(Grid, self.grid)
        workflow = SecAggPlusWorkflow(SHARES[self.name], THRESHOLD)
        with self.grid.watch(SERVER, "workflow"):
            workflow(grid, context)
        model = recorddict_compat.arrayrecord_to_parameters(context.state.array_records[MAIN_PARAMS_RECORD], True)
        (mean,) = parameters_to_ndarrays(model)
        assert np.abs(mean - self.grid.update).max() < 1e-3
        return self.grid.watch, self.grid.traffic

    def _context(self) -> LegacyContext:
        state = RecordDict()
        state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
        state.array_records[MAIN_PARAMS_RECORD] = self.model
        clients = SimpleClientManager()
        for node in self.grid.contexts:
            clients.register(GridClientProxy(node, cast(Grid, self.grid), 1))
        strategy = Unaveraged(min_fit_clients=self.sites, min_available_clients=self.sites)
        return LegacyContext(Context(1, 1, {}, state, {}), strategy=strategy, client_manager=clients)
