"""A study made for auditors: every record carries a mark, and has the loudest contribution that there is.

A mark is a coordinate of its own, in the statistic and in the gradient, so that no other record hides it: the worst
case that the promise covers. Some marks belong to nobody; what their coordinates hold is noise alone.
"""

import base64
import contextlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel
from torch import nn

from synthfed.client.site import SimulatedSite
from synthfed.client.vault import Ledger
from synthfed.plugins.api import Answer, Array, Ask, Given, Payload
from synthfed.plugins.domains.table import TableDomain
from synthfed.plugins.pinning import Pinned
from synthfed.plugins.registry import find
from synthfed.protocols.privacy.plan import Plan, make_plan
from synthfed.protocols.schema import Records, Strict
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum
from synthfed.server.link import MemoryLink
from synthfed.server.store import Run
from synthfed.server.study_file import render_study
from synthfed.server.training import Training, Waiting

CANARIES = 460
"""Marks 1 to 460 belong to site a's canaries, each of which is there by a fair coin."""
BLANK = 400
"""As many further marks belong to nobody."""
WIDTH = 1 + CANARIES + BLANK
LOUD = 50.0  # of a contribution before it is clipped to 1
OTHERS = 20  # units without a mark at every site; with the canaries they fit into one batch
SITES = ("a", "b", "c")
STATISTICS, GRADIENTS, RATE = 4, 16, 0.25
DELTA = 1e-5


class Marked:
    """The auditors' model: a record is its mark, and mark 0 is nobody's."""

    Options: type[BaseModel] = Strict
    conditions: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.met: list[frozenset[int]] = []
        """The marks that each computation on records met, in order: only site a has any."""

    def sums(self) -> tuple[Sum, ...]:
        weights = (("weight", (1, WIDTH)),)
        return (
            Sum("marks", "statistic", WIDTH, 1.0, 1.0, STATISTICS, 0.5),
            Sum("steps", "gradient", WIDTH, 1.0, RATE, GRADIENTS, 0.5, weights),
        )

    def private(self) -> "Marked":
        return self

    def trainer(self, seed: int) -> "Auditor":  # noqa: ARG002
        return Auditor()

    def encode(self, records: Records) -> Array:
        marks = records[:, 0].astype(int)
        encoded = np.zeros((len(records), WIDTH))
        encoded[np.arange(len(records)), marks] = np.where(marks > 0, LOUD, 0.0)
        return encoded

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:  # noqa: ARG002
        self._meet(batch)
        return batch

    def module(self, name: str) -> nn.Module:  # noqa: ARG002
        return nn.Linear(WIDTH, 1, bias=False)

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        self._meet(batch.detach().numpy())
        losses: torch.Tensor = module(batch).squeeze(1)
        return losses

    def _meet(self, batch: Array) -> None:
        if marks := frozenset(np.flatnonzero(batch.any(0)).tolist()):
            self.met.append(marks)


class Auditor:
    """Asks for every round and keeps what was released; its weights follow the released gradients."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.weights = np.zeros((1, WIDTH), dtype=np.float32)

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        if remaining.get("marks", 0):
            return Ask("marks", {})
        return Ask("steps", {"weight": self.weights}) if remaining.get("steps", 0) else None

    def overlap(self) -> None:
        """The auditor has no public work."""

    def receive(self, answer: Answer) -> None:
        self.answers.append(answer)
        if answer.sum == "steps":
            self.weights = (self.weights + 0.01 * answer.total).astype(np.float32)

    def sample(self, rows: int, seed: int, given: Given) -> Records:  # noqa: ARG002
        return np.zeros((rows, 2))

    def walk(self, walks: int, steps: int, seed: int) -> Records:  # noqa: ARG002
        return np.zeros((0, 2))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        return {"weights": self.weights}

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        self.weights = state["weights"]

    def progress(self) -> Mapping[str, float]:
        return {}


@dataclass
class Seen:
    """All that a whole study left to look at.

    Attributes:
        was_in: whether each canary was in site a's table, shape ``(canaries,)``.
        answers: what was released, in order.
        weights: of the released model, shape ``(width,)``.
        met: the marks that each of site a's computations on records met.
        charged: how many rounds site a's ledger holds.
    """

    was_in: npt.NDArray[np.bool_]
    answers: list[Answer]
    weights: Array
    met: list[frozenset[int]]
    charged: int


@dataclass
class Audited:
    """A federation over a link in memory: real agents, ledgers and training, and the auditors' model."""

    folder: Path
    study: Study
    model: Marked
    sites: dict[str, SimulatedSite]
    pinned: Pinned
    was_in: npt.NDArray[np.bool_]
    trainer: Auditor = field(default_factory=Auditor)

    def train(self) -> str:
        """Train, and return why it ended."""
        run = Run.begin(self.folder / "run", render_study(self.study), {}, resume=False)
        waiting, policy = Waiting(0.0, 0.0), self.pinned.policy
        with contextlib.closing(MemoryLink({name: site.answer for name, site in self.sites.items()})) as link:
            return Training(policy, self.trainer, link, run, lambda: secrets.token_bytes(32), waiting).run()

    def seen(self) -> Seen:
        """Return what is left to look at; site a's ledger is verified."""
        site = self.sites["a"]
        site.close()
        with contextlib.closing(Ledger(self.folder / "a" / "ledger.db", site._identity, create=True)) as ledger:
            charged = ledger.length
        weights = self.trainer.weights[0].astype(float)
        return Seen(self.was_in, self.trainer.answers, weights, self.model.met, charged)


@contextlib.contextmanager
def audited(folder: Path, epsilon: float, plan: Plan | None = None) -> Iterator[Audited]:
    """Yield a federation that has not begun, with fresh coins for the canaries."""
    folder.mkdir()
    was_in = np.frombuffer(secrets.token_bytes(CANARIES), dtype=np.uint8) < 128
    marks = {name: [0] * OTHERS for name in SITES}
    marks["a"] += (np.flatnonzero(was_in) + 1).tolist()
    with contextlib.ExitStack() as stack:
        sites = {}
        for name in SITES:
            (folder / f"{name}.csv").write_text("mark,ill\n" + "".join(f"{mark},no\n" for mark in marks[name]))
            sites[name] = SimulatedSite(folder / name, name, folder / f"{name}.csv")
            stack.callback(sites[name].close)
        study, model = terms(epsilon, {name: site.public_key for name, site in sites.items()}), Marked()
        plugin = find("synthfed.models", "gan")
        policy = Policy(study, plan or make_plan(study, model.sums()), plugin.hash)
        pinned = Pinned(policy, plugin, model, find("synthfed.domains", "table"), TableDomain())
        for site in sites.values():
            site.open(pinned)
        yield Audited(folder, study, model, sites, pinned, was_in)


def terms(epsilon: float, keys: Mapping[str, bytes]) -> Study:
    """Return the study; its model's name is of no account, as the auditors' model is put in its place."""
    return Study.model_validate(
        {
            "format": 1,
            "name": "audit",
            "target": "ill",
            "privacy": {
                "mode": "distributed",
                "epsilon": epsilon,
                "delta": DELTA,
                "units_per_site": OTHERS + CANARIES,
                "sample_rate": RATE,
                "steps": GRADIENTS,
                "answer_time_s": 0.05,
                "statistic_time_s": 0.05,
            },
            "model": {"plugin": "gan"},
            "cohort": {
                "tolerated": 1,
                "quorum": 3,
                "sites": [{"id": name, "key": base64.b64encode(key).decode()} for name, key in keys.items()],
            },
            "columns": [
                {"name": "mark", "kind": "integer", "lower": 0, "upper": WIDTH - 1},
                {"name": "ill", "kind": "categorical", "values": ["no", "yes"]},
            ],
        }
    )
