"""Plugins that keep something from one record, batch or round for the next: what the agent notices."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.client.federation import AMPLE, WEIGHTS, Clock, Federation, Identities, Join, Plugin, opened
from torch import nn

from synthfed.client.gate import Gate
from synthfed.client.site import Holdings, Origin, _agent
from synthfed.client.vault import Ledger
from synthfed.plugins.api import Array, Payload, PrivatePart
from synthfed.plugins.domains.table import TableDomain
from synthfed.plugins.pinning import Pinned
from synthfed.plugins.registry import find
from synthfed.protocols.schema import Records
from synthfed.protocols.secagg.policy import Policy


class Network(nn.Module):
    """The tiny plugin's network."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 3), nn.LeakyReLU(), nn.Linear(3, 1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(batch)
        return result


class Remembers(Network):
    """Keeps what it saw in a buffer and adds it to the next output."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result = super().forward(batch) + self.seen
        self.seen += batch.detach().sum()
        return result


class GrowsABuffer(Network):
    """Keeps a record in a buffer that was not there before."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.register_buffer("kept", batch[:1].detach().clone())
        return super().forward(batch)


class MovesItsWeights(Network):
    """Adds what it saw to a weight, so that the next batch meets another network."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result = super().forward(batch)
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        first.bias.data += batch.detach().mean()
        return result


class AveragesTheBatch(Network):
    """Keeps running means, as batch normalisation does, in a buffer of its own."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * batch.detach().mean(0)
        return super().forward(batch - self.mean)


class CountsInAnAttribute(Network):
    """Keeps what it saw in an attribute that no state_dict shows."""

    seen = 0.0

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        result = super().forward(batch) + self.seen
        self.seen += float(batch.detach().sum())
        return result


class FillsAList(Network):
    """Keeps records in a list that it had from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen.append(float(batch.detach().sum()))
        return super().forward(batch) + self.seen[0]


class HidesABuffer(Network):
    """Keeps what it saw in a buffer that is not saved."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen += batch.detach().sum()
        return super().forward(batch) + self.seen


class TossesCoins(Network):
    """Draws from torch's generator, so that a record's part depends on its place in the batch."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.nn.functional.dropout(batch, training=True))


def normalises_the_batch() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2, affine=False), nn.Linear(2, 2))


class Stateful(Plugin):
    """The tiny plugin with another module, built anew for each round or once for all."""

    def __init__(self, tiny: PrivatePart, build: Callable[[], nn.Module], is_kept: bool) -> None:
        super().__init__(tiny)
        self._build, self._module = build, build() if is_kept else None

    def module(self, name: str) -> nn.Module:  # noqa: ARG002
        return self._module if self._module is not None else self._build()


BUILDS: list[Callable[[], nn.Module]] = [
    Remembers,
    GrowsABuffer,
    MovesItsWeights,
    AveragesTheBatch,
    CountsInAnAttribute,
    FillsAList,
    HidesABuffer,
    TossesCoins,
    normalises_the_batch,
]


def round_of(federation: Federation) -> np.ndarray:
    answer = opened(federation.a, "a", federation.round("critic"))
    federation.aggregator.give_up()
    return answer.grid


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("is_kept", [False, True], ids=["built anew", "the same object each round"])
def test_a_module_that_keeps_something_of_a_batch_is_caught_before_its_sum_leaves(
    join: Join, tiny: PrivatePart, build: Callable[[], nn.Module], is_kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The charged step is answered by noise alone, at its time, as any failure on records is."""
    federation = join(private=Stateful(tiny, build, is_kept))
    assert not round_of(federation).any()
    assert "UnsupportedMechanism" in caplog.text
    assert federation.a.ledger.failures() == 1
    assert not round_of(federation).any()


class Forgets(Network):
    """Has a buffer and reads it, but keeps nothing."""

    shift: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.ones(1))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return super().forward(batch) + self.shift


def test_a_module_that_only_reads_its_buffers_is_served(join: Join, tiny: PrivatePart) -> None:
    federation = join(private=Stateful(tiny, Forgets, is_kept=False))
    assert all(round_of(federation).any() for _ in range(3))
    assert federation.a.ledger.unsettled() == ()


def test_a_module_that_is_one_object_for_all_rounds_is_refused_from_the_second_on_whatever_it_keeps(
    join: Join, tiny: PrivatePart
) -> None:
    federation = join(private=Stateful(tiny, Forgets, is_kept=True))
    assert round_of(federation).any()
    assert not round_of(federation).any()
    assert federation.a.ledger.failures() == 1


def test_weights_that_a_module_comes_with_are_replaced_by_the_payload_in_every_round(
    join: Join, tiny: PrivatePart
) -> None:
    built: list[nn.Module] = []

    def build() -> nn.Module:
        built.append(Network())
        with torch.no_grad():
            for parameter in built[-1].parameters():
                parameter.fill_(1e3 * len(built))
        return built[-1]

    federation = join(private=Stateful(tiny, build, is_kept=False))
    for _ in range(3):
        round_of(federation)
        loaded = np.concatenate([parameter.detach().numpy().ravel() for parameter in built[-1].parameters()])
        assert loaded.astype("<f4").tobytes() == WEIGHTS


class Fitted:
    """A private part that learns a mean when it encodes, and takes it off every contribution."""

    def __init__(self, tiny: PrivatePart) -> None:
        self._tiny, self.mean = tiny, 0.0
        self.module, self.loss = tiny.module, tiny.loss

    def encode(self, records: Records) -> Array:
        self.mean = float(records.mean())
        return self._tiny.encode(records)

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:
        return self._tiny.statistic(name, batch - self.mean, payload)


@dataclass(frozen=True)
class Fitting:
    """A model with such a private part."""

    tiny: PrivatePart

    def private(self) -> Fitted:
        return Fitted(self.tiny)


def test_what_a_private_part_keeps_of_all_records_when_it_encodes_them_acts_in_no_sum(
    tmp_path: Path, policy: Policy, identities: Identities, tiny: PrivatePart
) -> None:
    (tmp_path / "data.csv").write_text("x\n0.25\n0.75\n1.0\n")
    model: Any = Fitting(tiny)
    plugin, reader = find("synthfed.models", "tabular-gan"), find("synthfed.domains", "table")
    pinned = Pinned(policy, plugin, model, reader, TableDomain())
    with closing(Ledger(tmp_path / "ledger.db", identities["a"], create=True)) as ledger:
        own = Holdings("a", identities["a"], ledger, Origin(tmp_path / "data.csv"), str)
        agent = _agent(pinned, own, Gate(policy, AMPLE, ledger), Clock())
        one = np.full((1, 1), 0.5)
        assert agent.data.encoded[:, 0].tolist() == [0.25, 0.75, 1.0]
        assert np.array_equal(agent.private.statistic("count", one, {}), tiny.statistic("count", one, {}))
