"""Toys with a fault, how they are made; and for each check of what a plugin declares one that breaks it alone."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import torch
from pydantic import BaseModel

from synthfed.protocols.schema import Strict
from synthfed.protocols.sums import Sum

from .toy_model import Options, Toy, ToyAtSite, ToyTrainer


def model(**members: Any) -> type:
    return type("Wrong", (Toy,), {"__doc__": "A toy with a fault.", "__module__": __name__} | members)


def at_site(**members: Any) -> type:
    return model(at_site=type("WrongAtSite", (ToyAtSite,), {"__module__": __name__} | members))


def at_coordinator(**members: Any) -> type:
    return model(at_coordinator=type("WrongTrainer", (ToyTrainer,), {"__module__": __name__} | members))


def score_with(**changes: Any) -> Callable[[Any], tuple[Sum, ...]]:
    def sums(self: Any) -> tuple[Sum, ...]:
        counts, score = Toy.sums(self)
        return (counts, dataclasses.replace(score, **changes))

    return sums


def counts_with(**changes: Any) -> Callable[[Any], tuple[Sum, ...]]:
    def sums(self: Any) -> tuple[Sum, ...]:
        counts, score = Toy.sums(self)
        return (dataclasses.replace(counts, **changes), score)

    return sums


class Loose(BaseModel):
    """Options that take anything.

    rate: learning rate.
    """

    rate: float = 0.1


class Bare(Strict):
    """Options one must set.

    rate: learning rate.
    """

    rate: float


class Silent(Strict):
    """Options nobody describes."""

    rate: float = 0.1


def set_up(also: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def __init__(self: Any, study: Any) -> None:  # noqa: N807
        also(self, study)
        Toy.__init__(self, study)

    return __init__


def take_any_option(self: Any, study: Any) -> None:
    for name in set(study.model.options) - set(Options.model_fields):
        del study.model.options[name]


def leak_a_validation_error(self: Any, study: Any) -> None:
    if set(study.model.options) <= set(Options.model_fields):
        Options.model_validate(study.model.options)


def write_into_study(self: Any, study: Any) -> None:
    study.model.options.setdefault("rate", 0.1)


def crash_on_arrays(self: Any, study: Any) -> None:
    if any(column.kind == "array" for column in study.columns):
        raise ValueError("no arrays")


def toss(self: Any, study: Any) -> None:
    torch.rand(1)


def one_more_condition(self: Any, study: Any) -> None:
    Toy.__init__(self, study)
    self.conditions = (*self.conditions, "no such column")


def drifting_sums(self: Any) -> tuple[Sum, ...]:
    counts, score = Toy.sums(self)
    return (counts, dataclasses.replace(score, clip_norm=random.SystemRandom().uniform(0.5, 2)))


DECLARATIONS: list[tuple[str, type]] = [
    ("class-is-documented", model(__doc__=None)),
    ("options-are-strict", model(Options=Loose)),
    ("options-have-defaults", model(Options=Bare)),
    ("options-are-described", model(Options=Silent)),
    ("a-wrong-option-is-refused", model(__init__=set_up(take_any_option))),
    ("a-wrong-value-is-refused", model(__init__=set_up(leak_a_validation_error))),
    ("study-is-left-alone", model(__init__=set_up(write_into_study))),
    ("unfit-columns-are-refused", model(__init__=set_up(crash_on_arrays))),
    ("sums-are-declared", model(sums=lambda self: list(Toy.sums(self)))),
    ("shares-are-whole", model(sums=score_with(share=0.9))),
    ("declaration-is-the-same-everywhere", model(sums=drifting_sums)),
    ("a-plan-exists", model(sums=counts_with(payload=(("field", (10**9,)),)))),
    ("conditions-are-columns", model(__init__=one_more_condition)),
    (
        "parameters-are-those-of-the-contract",
        at_coordinator(walk=lambda self, walks, steps, key: ToyTrainer.walk(self, walks, steps, key)),
    ),
    ("modules-match-their-sums", model(sums=score_with(dim=5))),
    ("making-leaves-randomness-alone", model(__init__=set_up(toss))),
]
