"""The plan of a comparison: data sets, models, peers, seeds and promises, and the runs that follow.

Never holds a result, and never asks one that promises nothing for a promise.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, model_validator

from synthfed.protocols.errors import ConfigError, describe
from synthfed.protocols.ids import digest
from synthfed.protocols.schema import Strict
from synthfed.protocols.study import canonical_json

from ..wishes import pairs
from .entries import TRIVIAL, WITHOUT_PROMISE, Contender, DataSet, Epsilons, Peer, Split

Key = tuple[str, str, int, str, str]
"""The names of model and data set, the seed, the split and the epsilon as text: what a result is found by."""
_KEYS: Final = ("model", "data", "seed", "split", "epsilon")
_OTHERS: Final = {"data", "epsilons", "most_minutes"}  # what a plan says of other runs, or of none


@dataclass(frozen=True, slots=True)
class Wanted:
    """One run of the plan.

    Attributes:
        model: a model, a peer, or the name of a trivial model.
        data: with the promise of this run.
        seed: of every draw.
        split: how rows are dealt, where the data set says several ways and the model is one of sites.
        epsilon: of the plan's epsilons the one that is run; None where the plan has none.
    """

    model: Contender | Peer | str
    data: DataSet
    seed: int
    split: Split | None = None
    epsilon: float | None = None

    @property
    def key(self) -> Key:
        """What a result is found by."""
        name = self.model if isinstance(self.model, str) else self.model.name
        return (name, self.data.name, self.seed, self.split or "", "" if self.epsilon is None else f"{self.epsilon:g}")

    @property
    def terms(self) -> str:
        """The digest of everything that the plan says of this run; a result of other terms does not count."""
        # What a plan says of other runs stays out: a finished run counts when the plan grows.
        model = self.model if isinstance(self.model, str) else self.model.model_dump(mode="json", exclude=_OTHERS)
        told = [model, self._told_of_data(), self.seed, *([] if self.split is None else [self.split])]
        return digest("comparison", canonical_json(told)).hex()[:16]

    def _told_of_data(self) -> dict[str, Any]:
        # Results from before there were constraints and site columns go on counting.
        later = {"constraints": self.data.constraints, "site_column": self.data.site_column}
        told = self.data.model_dump(
            mode="json", exclude={"splits", *(name for name, value in later.items() if not value)}
        )
        if isinstance(self.model, Peer):  # which knows no sites, and of the promise this
            private = ("epsilon", "delta") if self.model.is_private else ()
            told["privacy"] = {name: told["privacy"][name] for name in private}
        return told


class Plan(Strict):
    """Everything that is to be run: each model on its data sets with each seed.

    With ``epsilons`` it is a ladder: each entry is run under all of them, those that promise nothing at ``inf``
    and all others where it is finite. A data set with ``like`` has every field of an earlier one but for its own.
    """

    format: Literal[1]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1, strict=False)]
    epsilons: Epsilons = ()
    data: Annotated[tuple[DataSet, ...], Field(min_length=1, strict=False)]
    models: Annotated[tuple[Contender, ...], Field(min_length=1, strict=False)]
    peers: Annotated[tuple[Peer, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        known = [each.name for each in self.data]
        twice = next((name for name in known if known.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"data {twice!r} is there twice; give each its own name")
        entries: tuple[Contender | Peer, ...] = (*self.models, *self.peers)
        entered = [(entry.name, name) for entry in entries for name in entry.data]
        again = next((entry for entry in entered if entered.count(entry) > 1), None)
        if again is not None:
            raise ValueError(f"model {again[0]!r} is there twice for data {again[1]!r}; name one of them otherwise")
        lost = next((entry for entry in entered if entry[1] not in known), None)
        if lost is not None:
            raise ValueError(f"model {lost[0]!r} asks for data {lost[1]!r}, which is not in the plan")
        return self

    @model_validator(mode="after")
    def _peers_read_tables(self) -> Self:
        arrays = [each.name for each in self.data if not each.is_table]
        lost = next(((peer.name, name) for peer in self.peers for name in peer.data if name in arrays), None)
        if lost is not None:
            raise ValueError(f"peer {lost[0]!r} reads tables only, and data {lost[1]!r} has arrays; leave it out")
        return self

    @model_validator(mode="after")
    def _peers_know_no_sites(self) -> Self:
        by_site = [each.name for each in self.data if each.site_column is not None]
        lost = next(((peer.name, name) for peer in self.peers for name in peer.data if name in by_site), None)
        if lost is not None:
            raise ValueError(f"peer {lost[0]!r} knows no sites, and data {lost[1]!r} has a site_column; leave it out")
        return self

    @property
    def is_ladder(self) -> bool:
        """Whether the same entries are run under several promises."""
        return bool(self.epsilons)

    def wanted(self) -> Iterator[Wanted]:
        """Yield every run, the trivial ones too: seed by seed, so that the whole table is there after the first."""
        for seed in self.seeds:
            for data in self.data:
                for name in data.trivial:
                    yield from _laddered(name, data, seed, self.epsilons)
                for model in self.models:
                    if data.name in model.data:
                        for split in data.splits or (None,):
                            yield from _laddered(model, data, seed, model.epsilons or self.epsilons, split)
                for peer in self.peers:
                    if data.name in peer.data:
                        yield from _laddered(peer, data, seed, peer.epsilons or self.epsilons)


def _laddered(
    model: Contender | Peer | str, data: DataSet, seed: int, epsilons: Sequence[float], split: Split | None = None
) -> Iterator[Wanted]:
    """Yield the runs of one entry on one data set: under each epsilon that means anything to it."""
    if not epsilons:
        yield Wanted(model, data, seed, split)
    promises = not isinstance(model, Peer) or model.is_private
    for epsilon in epsilons:
        if promises and epsilon != WITHOUT_PROMISE:
            yield Wanted(model, data.under(epsilon), seed, split, epsilon)
        elif not promises and epsilon == WITHOUT_PROMISE:
            yield Wanted(model, data, seed, split, epsilon)


def parse_plan(text: str, *, where: str) -> Plan:
    """Return the plan that a TOML text states; ConfigError names the file, the field and what is wrong with it."""
    fields: object = None
    try:
        fields = _filled(tomllib.loads(text), where)
        return Plan.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(describe(error, fields), where=where) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is not valid TOML: {error}", where=where) from None


def _filled(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a plan's fields, each data set that is ``like`` an earlier one with what it does not say itself."""
    entries = fields.get("data")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return fields  # which says what is wrong when it is validated
    filled: list[dict[str, Any]] = []
    for entry in entries:
        model = next((each for each in filled if "like" in entry and each.get("name") == entry["like"]), None)
        if "like" in entry and model is None:
            raise ConfigError(
                f"data {entry.get('name')!r} is like {entry['like']!r}, which is not above it", where=where
            )
        filled.append((model or {}) | {name: value for name, value in entry.items() if name != "like"})
    return fields | {"data": filled}


def choose(plan: Plan, only: Sequence[str]) -> tuple[Wanted, ...]:
    """Return the plan's runs that meet any of the filters, or all if there is none.

    The trivial models of the data sets that are run come along: without them no row could be judged.

    Args:
        plan: the plan.
        only: texts ``model=NAME,data=NAME,seed=NUMBER,split=NAME,epsilon=NUMBER``, each part optional.

    Raises:
        ConfigError: a filter is not of this form, or no run meets it.
    """
    runs = tuple(plan.wanted())
    if not only:
        return runs
    chosen = set[Key]()
    for text in only:
        met = [run.key for run in runs if _meets(run, text)]
        if not met:
            raise ConfigError(f"no run of the plan meets {text!r}; check the names", where="--only")
        chosen.update(met)
        chosen.update((name, data, seed, "", epsilon) for _, data, seed, _, epsilon in met for name in TRIVIAL)
    return tuple(run for run in runs if run.key in chosen)


def _meets(run: Wanted, text: str) -> bool:
    form = "model=NAME,data=NAME,seed=NUMBER,split=NAME,epsilon=NUMBER, each part optional"
    parts = pairs(re.split(r"\s*,\s*", text), form, where="--only")
    unknown = next((name for name in parts if name not in _KEYS), None)
    if unknown is not None:
        raise ConfigError(f"{unknown!r} must be one of {', '.join(_KEYS)}", where="--only")
    own = dict(zip(_KEYS, map(str, run.key), strict=True))
    return all(own[name] == value for name, value in parts.items())
