"""A small federation in one process: real agents, machines, ledgers and training over a link that can be hostile."""

import base64
import contextlib
import secrets
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import BaseModel
from torch import nn

from synthfed.client.site import SimulatedSite
from synthfed.client.vault import Ledger
from synthfed.plugins.api import Answer, Array, Ask, Given, Payload, Trainer
from synthfed.plugins.domains.table import TableDomain
from synthfed.plugins.models.gan import Gan
from synthfed.plugins.pinning import Pinned
from synthfed.plugins.registry import find
from synthfed.protocols.privacy.plan import Plan, make_plan
from synthfed.protocols.schema import Records, Strict
from synthfed.protocols.secagg import keys, messages
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.study import Study
from synthfed.protocols.sums import PROBE, Sum
from synthfed.server.link import Link, MemoryLink
from synthfed.server.store import Run, Status, Tally
from synthfed.server.study_file import render_study
from synthfed.server.training import Training, Waiting

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that tests can import `tests.federation.coordinator`

UNITS = 120
KINDS, ANSWERS = ("a", "b", "c", "d"), ("no", "yes")
WIDTH = len(KINDS) + len(ANSWERS)
TINY_GAN = {
    "refine": True,
    "start": "marginals",
    "critic_hidden": 8,
    "batch": 64,
    "generator_hidden": 16,
    "generator_steps": 1,
}


class Options(Strict):
    """What a study may set of the toy: the length of its sum; what a record does not fill stays zero."""

    dim: int = WIDTH


class Toy:
    """A model of one statistic at sampling rate 1, so that the plain sum of the contributions is known."""

    Options: type[BaseModel] = Options

    def __init__(self, study: Study) -> None:
        self.dim = Options.model_validate(study.model.options).dim
        self.rounds = study.privacy.steps

    def sums(self) -> tuple[Sum, ...]:
        return (Sum("mean", "statistic", self.dim, 1.0, 1.0, self.rounds, 1.0, (("scale", (1,)),)),)

    def private(self) -> "Toy":
        return self

    def trainer(self, seed: int) -> "ToyTrainer":  # noqa: ARG002
        return ToyTrainer(self.dim)

    def encode(self, records: Records) -> Array:
        encoded = np.zeros((len(records), self.dim))
        encoded[np.arange(len(records)), records[:, 0].astype(int)] = 0.5**0.5
        encoded[np.arange(len(records)), len(KINDS) + records[:, 1].astype(int)] = 0.5**0.5
        return encoded

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:  # noqa: ARG002
        return np.asarray(batch * float(payload["scale"][0]))

    def module(self, name: str) -> nn.Module:
        raise NotImplementedError

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class ToyTrainer:
    """Asks for the sum until no round is left, and keeps every answer."""

    def __init__(self, dim: int) -> None:
        self.answers: list[Answer] = []
        self.total = np.zeros(dim)

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        return Ask("mean", {"scale": np.ones(1, dtype=np.float32)}) if remaining["mean"] else None

    def overlap(self) -> None:
        """The toy has no public work."""

    def receive(self, answer: Answer) -> None:
        self.answers.append(answer)
        self.total = self.total + answer.total

    def sample(self, rows: int, seed: int, given: Given) -> Records:  # noqa: ARG002
        return np.zeros((rows, 2))

    def walk(self, walks: int, steps: int, seed: int) -> Records:  # noqa: ARG002
        return np.zeros((0, 2))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        return {"total": self.total}

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        self.total = state["total"]

    def progress(self) -> Mapping[str, float]:
        return {"answers": float(len(self.answers))}


Frames = dict[str, bytes]
Change = Callable[[Any], Any]
Rule = Callable[[int, Frames], Frames]


class Tampering:
    """A link whose frames a hostile network or coordinator may drop, delay, replay, swap or rewrite.

    Rounds are numbered from 1 over the link's life; probes and handshakes have number 0.
    """

    def __init__(self, inner: Link) -> None:
        self.round = 0
        self.requests: dict[int, Frames] = {}
        self.replies: dict[int, Frames] = {}
        self._inner = inner
        self._number = 0
        self._on_requests: list[Rule] = []
        self._on_replies: list[Rule] = []
        self._away: list[tuple[str, Collection[int]]] = []

    def connected(self) -> frozenset[str]:
        away = {site for site, rounds in self._away if self.round + 1 in rounds}
        return self._inner.connected() - away

    def post(self, frames: Mapping[str, bytes], sequence: int) -> None:
        message = messages.decode(next(iter(frames.values())))[0]
        is_round = isinstance(message, messages.Round) and message.kind != PROBE
        self.round += is_round
        self._number = self.round if is_round else 0
        sent = dict(frames)
        for rule in self._on_requests:
            sent = rule(self._number, sent)
        self.requests[self._number] = sent
        self._inner.post(sent, sequence)

    def collect(self, timeout_s: float) -> Iterator[tuple[str, bytes]]:
        replies = dict(self._inner.collect(timeout_s))
        for rule in self._on_replies:
            replies = rule(self._number, replies)
        self.replies[self._number] = replies
        yield from replies.items()

    def close(self) -> None:
        self._inner.close()

    def away(self, site: str, rounds: Collection[int]) -> None:
        """Take a site off the network before these rounds."""
        self._away.append((site, rounds))

    def drop_request(self, site: str, rounds: Collection[int]) -> None:
        self._on_requests.append(_only(rounds, lambda frames: _without(frames, site)))

    def drop_reply(self, site: str, rounds: Collection[int]) -> None:
        self._on_replies.append(_only(rounds, lambda frames: _without(frames, site)))

    def lose_first(self, site: str, wanted: Callable[[messages.Message], bool]) -> None:
        """Lose the first frame to or from a site whose message is a wanted one."""
        lost: list[str] = []

        def lose(_: int, frames: Frames) -> Frames:
            if lost or site not in frames or not wanted(messages.decode(frames[site])[0]):
                return frames
            lost.append(site)
            return _without(frames, site)

        self._on_requests.append(lose)
        self._on_replies.append(lose)

    def rewrite_request(self, site: str, rounds: Collection[int], change: Change) -> None:
        self._on_requests.append(_only(rounds, lambda frames: _rewritten(frames, site, change)))

    def rewrite_reply(self, site: str, rounds: Collection[int], change: Change) -> None:
        self._on_replies.append(_only(rounds, lambda frames: _rewritten(frames, site, change)))

    def swap_replies(self, one: str, other: str, rounds: Collection[int]) -> None:
        def swap(frames: Frames) -> Frames:
            return {**frames, one: frames[other], other: frames[one]}

        self._on_replies.append(_only(rounds, swap))

    def replay_request(self, site: str, round_number: int, earlier: int) -> None:
        """Send a site the frame of an earlier round in place of this one's."""
        rule = _only((round_number,), lambda frames: {**frames, site: self.requests[earlier][site]})
        self._on_requests.append(rule)

    def replay_reply(self, site: str, round_number: int, earlier: int) -> None:
        """Take a site's reply to an earlier round for its reply to this one."""
        rule = _only((round_number,), lambda frames: {**frames, site: self.replies[earlier][site]})
        self._on_replies.append(rule)

    def delay_reply(self, site: str, round_number: int) -> None:
        """Hold a site's reply back until the next round's replies come, and let it take their place."""
        held: list[bytes] = []

        def hold(number: int, frames: Frames) -> Frames:
            if number == round_number:
                held.append(frames[site])
                return _without(frames, site)
            return {**frames, site: held.pop()} if held and number else frames

        self._on_replies.append(hold)


def _only(rounds: Collection[int], change: Callable[[Frames], Frames]) -> Rule:
    return lambda number, frames: change(frames) if number in rounds else frames


def _without(frames: Frames, site: str) -> Frames:
    return {name: frame for name, frame in frames.items() if name != site}


def _rewritten(frames: Frames, site: str, change: Change) -> Frames:
    if site not in frames:
        return frames
    message, sequence = messages.decode(frames[site])
    return {**frames, site: messages.encode(change(message), sequence)}


class WatchedRun(Run):
    """A run that tells a watcher, who may raise, whatever it reports."""

    watch: Callable[[Status], None] = staticmethod(lambda _: None)

    def report(self, status: Status) -> None:
        super().report(status)
        self.watch(status)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training ended, and what it left."""

    reason: str
    trainer: Any
    tally: Tally


class Federation:
    """A study, its sites with their tables, and a link between them."""

    def __init__(self, folder: Path, pinned: Pinned, sites: Mapping[str, SimulatedSite], plain: Mapping[str, Array]):
        self.folder = folder
        self.pinned = pinned
        self.sites = dict(sites)
        self.plain = dict(plain)
        self.answers: dict[str, Callable[[bytes], bytes]] = {name: site.answer for name, site in sites.items()}
        self.link = self._linked()

    @property
    def study(self) -> Study:
        return self.pinned.policy.study

    def train(
        self,
        *,
        resume: bool = False,
        trainer: Trainer | None = None,
        watch: Callable[[Status], None] = lambda _: None,
        quorum_s: float = 0.0,
    ) -> Outcome:
        """Train to the end; what ends it early is raised, and its checkpoint stands in the run's folder."""
        run = WatchedRun.begin(self.folder / "run", render_study(self.study), {}, resume=resume)
        run.watch = watch
        trainer = trainer or self.pinned.model.trainer(0)
        training = self.training(run, trainer, quorum_s)
        return Outcome(training.run(), trainer, training.tally)

    def training(self, run: Run, trainer: Trainer, quorum_s: float = 0.0) -> Training:
        waiting = Waiting(0.0, quorum_s)
        return Training(self.pinned.policy, trainer, self.link, run, lambda: secrets.token_bytes(32), waiting)

    def checkpoint(self) -> tuple[dict[str, npt.NDArray[Any]], Tally]:
        found = Run(self.folder / "run").load(self.study)
        assert found is not None
        return found

    def charges(self, site: str) -> dict[str, int]:
        """Return how many rounds of each sum the site's own ledger holds, after verifying its chain."""
        path, identity = self.folder / site / "ledger.db", self.sites[site]._identity
        with contextlib.closing(Ledger(path, identity, create=True)) as ledger:
            counts = {k.sum.name: ledger.count(self.study.hash, k.sum.name) for k in self.pinned.policy.plan.kinds}
        return {name: count for name, count in counts.items() if count}

    def ledger(self, site: str) -> Ledger:
        """Return the ledger that the site's agent uses."""
        return self.sites[site]._ledger

    def reconnect(self) -> None:
        """Give the coordinator a new link, as a new process of it has; the sites' agents stay as they are."""
        self.link.close()
        self.link = self._linked()

    def restart(self, site: str) -> None:
        """Start a site's agent again: its ledger stays, its session is forgotten."""
        self.sites[site].open(self.pinned)

    def roll_back(self, site: str) -> None:
        """Replace a site's ledger by an empty one, as a backup from before the study, and start its agent."""
        self.ledger(site).close()
        file = self.folder / site / "ledger.db"
        file.unlink()
        self.sites[site]._ledger = Ledger(file, self.sites[site]._identity, create=True)
        self.restart(site)

    def lie(self, site: str, rounds: Collection[int], change: Callable[[messages.Masked], messages.Masked]) -> None:
        """Make a site change its masked sums in these rounds of its own (0: probes) and sign them properly."""
        honest, count = self.answers[site], 0

        def answer(frame: bytes) -> bytes:
            nonlocal count
            message, sequence = messages.decode(honest(frame))
            if not isinstance(message, messages.Masked):
                return messages.encode(message, sequence)
            count += bool(message.words)
            if (count if message.words else 0) in rounds:
                message = change(message)
                signature = keys.sign(self.sites[site]._identity, message.signed(site))
                message = replace(message, signature=signature)
            return messages.encode(message, sequence)

        self.answers[site] = answer
        self.reconnect()

    def _linked(self) -> Tampering:
        return Tampering(MemoryLink(self.answers))


@pytest.fixture(scope="session")
def _plans() -> dict[tuple[Any, ...], Plan]:
    return {}


@pytest.fixture
def federate(tmp_path: Path, _plans: dict[tuple[Any, ...], Plan]) -> Iterator[Callable[..., Federation]]:
    """Return a function that makes a federation with fresh identities and ledgers; all are closed afterwards."""
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:

        def make(
            *,
            sites: int = 4,
            quorum: int = 3,
            mode: str = "distributed",
            epsilon: float = 100.0,
            rounds: int = 6,
            dim: int = WIDTH,
            gan: bool = False,
            local_steps: int = 1,
            name: str = "small",
        ) -> Federation:
            folder = tmp_path / name
            folder.mkdir()
            roster = [f"s{number}" for number in range(sites)]
            written = [_table(folder / f"{site}.csv", seed) for seed, site in enumerate(roster)]
            tables, plain = zip(*written, strict=True)
            made = [SimulatedSite(folder / site, site, table) for site, table in zip(roster, tables, strict=True)]
            for site in made:
                stack.callback(site.close)
            options: dict[str, Any] = TINY_GAN | {"local_steps": local_steps} if gan else {"dim": dim}
            study = _study(name, mode, epsilon, rounds, quorum, options, [site.public_key for site in made])
            model: Any = Gan(study) if gan else Toy(study)
            terms = (sites, quorum, mode, epsilon, rounds, dim, gan, local_steps)
            plan = _plans.get(terms) or _plans.setdefault(terms, make_plan(study, model.sums()))
            plugin = find("synthfed.models", "tabular-gan")
            pinned = Pinned(
                Policy(study, plan, plugin.hash), plugin, model, find("synthfed.domains", "table"), TableDomain()
            )
            for site in made:
                site.open(pinned)
            named = dict(zip(roster, made, strict=True))
            federation = Federation(folder, pinned, named, dict(zip(roster, plain, strict=True)))
            stack.callback(lambda: federation.link.close())
            return federation

        yield make


def _table(path: Path, seed: int) -> tuple[Path, Array]:
    """Write a site's table; return its path and the plain sum of its units' toy contributions."""
    rng = np.random.default_rng(seed)
    rows = [(KINDS[rng.integers(4)], ANSWERS[int(rng.random() < 0.3)]) for _ in range(UNITS)]
    path.write_text("kind,ill\n" + "".join(f"{kind},{ill}\n" for kind, ill in rows))
    counts = [sum(kind == each for kind, _ in rows) for each in KINDS]
    counts += [sum(ill == each for _, ill in rows) for each in ANSWERS]
    return path, np.array(counts) * 0.5**0.5


def _study(
    name: str, mode: str, epsilon: float, rounds: int, quorum: int, options: dict[str, Any], public: list[bytes]
) -> Study:
    roster = [{"id": f"s{number}", "key": base64.b64encode(key).decode()} for number, key in enumerate(public)]
    return Study.model_validate(
        {
            "format": 1,
            "name": name,
            "target": "ill",
            "privacy": {
                "mode": mode,
                "epsilon": epsilon,
                "delta": 1e-5,
                "units_per_site": 150,
                "sample_rate": 0.5,
                "steps": rounds,
                "answer_time_s": 0.05,
                "statistic_time_s": 0.05,
            },
            "model": {"plugin": "tabular-gan", "options": options},
            "cohort": {"tolerated": 1, "quorum": quorum, "sites": roster},
            "columns": [
                {"name": "kind", "kind": "categorical", "values": list(KINDS)},
                {"name": "ill", "kind": "categorical", "values": list(ANSWERS)},
            ],
        }
    )
