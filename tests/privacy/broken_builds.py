"""Ten ways in which a build can break its promise, each as a change to the very code that keeps it.

Each takes pytest's monkeypatch, which puts everything back, and the federation that is to be broken before it trains.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.privacy.marked import WIDTH, Audited, Marked
from torch import nn

from synthfed.client import agent, data, train
from synthfed.client.agent import Agent
from synthfed.client.data import UnitData
from synthfed.client.vault import Ledger
from synthfed.plugins.api import Array
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.schema import Records
from synthfed.protocols.secagg.session import Seeds
from synthfed.protocols.sums import SCALE_BITS, Kind

Patch = pytest.MonkeyPatch
Noise = npt.NDArray[np.int64]


def noise_off(patch: Patch, _: Audited) -> None:
    """No site adds noise."""
    patch.setattr(agent, "discrete_gaussian", lambda _stream, size, _bits: np.zeros(size, dtype=np.int64))


def noise_of_one_site_missing(patch: Patch, federation: Audited) -> None:
    """One of three sites adds none, and is not among the tolerated bad ones."""
    silent = federation.sites["b"]
    _noise_in_place(patch, lambda who, noise: np.zeros_like(noise) if who is silent._agent else noise)


def clipping_off(patch: Patch, _: Audited) -> None:
    """A contribution is added up whatever its norm is."""
    patch.setattr(train, "_scales", lambda norms, _norm, real: np.where(real & np.isfinite(norms), 1.0, 0.0))


def shuffled_lots(patch: Patch, _: Audited) -> None:
    """Units are shuffled and dealt into lots of one size, while coins are accounted for."""
    rng, decks = np.random.default_rng(7), dict[int, Iterator[npt.NDArray[np.int64]]]()

    def lots(units: int, rate: float) -> Iterator[npt.NDArray[np.int64]]:
        while True:
            yield from np.array_split(rng.permutation(units), round(1 / rate))

    def deal(_stream: Any, units: int, rate: float) -> npt.NDArray[np.int64]:
        return np.sort(next(decks.setdefault(units, lots(units, rate)))) if rate < 1 else np.arange(units)

    patch.setattr(data, "poisson_sample", deal)


def noise_used_again(patch: Patch, _: Audited) -> None:
    """Each site draws noise once and adds the same to every sum."""
    drawn: dict[int, Noise] = {}
    _noise_in_place(patch, lambda who, noise: drawn.setdefault(id(who), noise))


def bounds_from_the_data(patch: Patch, _: Audited) -> None:
    """An encoding scales records to the range that they have."""
    own = Marked.encode

    def encode(self: Marked, records: Records) -> Array:
        return own(self, records) * float(np.ptp(records[:, 0]))

    patch.setattr(Marked, "encode", encode)


def batch_normalised(patch: Patch, _: Audited) -> None:
    """A private module puts something of the whole batch into each record's loss."""

    def module(self: Marked, name: str) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(WIDTH, affine=False), own(self, name))

    own = Marked.module
    patch.setattr(Marked, "module", module)


def question_asked_again_is_free(patch: Patch, _: Audited) -> None:
    """A round that asks the same as the one before is not charged."""
    own, pay, settle, last = Agent._charged, Ledger.charge, Ledger.settle, dict[int, Any]()
    is_free: list[bool] = [False]

    def charged(self: Agent, accepted: Any, kind: Any) -> Any:
        asked = (kind.sum.name, accepted.round.payload)
        is_free[0], last[id(self)] = last.get(id(self)) == asked, asked
        return own(self, accepted, kind)

    patch.setattr(Agent, "_charged", charged)
    patch.setattr(Ledger, "charge", lambda self, *each: self.length if is_free[0] else pay(self, *each))
    patch.setattr(Ledger, "settle", lambda self, *each: None if is_free[0] else settle(self, *each))


def lots_twice_as_large(patch: Patch, _: Audited) -> None:
    """Units take part at twice the rate that is charged."""
    own = UnitData.draw
    patch.setattr(UnitData, "draw", lambda self, stream, rate, slots: own(self, stream, min(2 * rate, 1.0), slots))


def stale_ledger(patch: Patch, federation: Audited) -> None:
    """A site's ledger is replaced by an older one in the middle, and no peer remembers how long it was."""
    patch.setattr(Ledger, "journal_floors", lambda _: {})
    roll_back(patch, federation)


def roll_back(patch: Patch, federation: Audited) -> None:
    """Restart site a after some rounds, so that its peers see its ledger's length, and later empty the ledger."""
    site, answers = federation.sites["a"], [0]
    own = site.answer

    def answer(frame: bytes) -> bytes:
        answers[0] += 1
        if answers[0] == 22:
            file = federation.folder / "a" / "ledger.db"
            site.close()
            file.unlink()
            site._ledger = Ledger(file, site._identity, create=True)
        if answers[0] in (12, 22):
            site.open(federation.pinned)
        return own(frame)

    patch.setattr(site, "answer", answer)


def _noise_in_place(patch: Patch, instead: Callable[[Agent, Noise], Noise]) -> None:
    """Put other noise in the place of an agent's own, which follows from the seeds that it was given."""
    own = Agent._noised

    def noised(self: Agent, kind: Kind, seeds: Seeds, *given: Any, **named: Any) -> tuple[Noise, bool]:
        vector, has_failed = own(self, kind, seeds, *given, **named)
        noise = discrete_gaussian(KeyStream(seeds.noise), kind.sum.dim, SCALE_BITS)
        return vector - noise + instead(self, noise), has_failed

    patch.setattr(Agent, "_noised", noised)
