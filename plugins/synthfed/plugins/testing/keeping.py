"""Checks that a private part keeps nothing of records, shows nothing and opens nothing while it sees them.

Never finds what foreign code hides on purpose: for that a site pins the hash of the code it has read.
"""

import sys
from typing import Final

import numpy as np

from ..api import Model, PrivatePart
from .check import check
from .gradients import FEW
from .residue import difference, memory_of
from .trial import SEED, Trial, promise, same_states
from .watch import noting_acts, noting_words

_GROUND: Final = ("statistic-has-one-row-a-record", "core-accepts-every-gradient")


def see(trial: Trial, private: PrivatePart) -> None:
    """Let a private part see records in every way there is."""
    batch = private.encode(trial.records)
    for kind in trial.plan.kinds:
        trial.summed(kind, batch[:FEW], private=private)


def private_part_keeps_nothing(trial: Trial) -> None:
    """Neither the private part nor its model remembers anything of the records it saw."""
    model, private = _warm(trial)
    before = memory_of((model, private))
    see(trial, private)
    changed = difference(before, memory_of((model, private)))
    promise(not changed, f"{changed!r} changed while the private part saw records; keep nothing of them")


def code_keeps_nothing(trial: Trial) -> None:
    """No global of the plugin's module and no attribute of its classes changes while it sees records."""
    _, private = _warm(trial)
    places = {type(private).__module__, trial.plugin.__module__}
    watched = {name: _globals(name) for name in sorted(places)}
    before = memory_of(watched)
    see(trial, private)
    changed = difference(before, memory_of({name: _globals(name) for name in sorted(places)}))
    promise(not changed, f"{changed!r} of the code changed while it saw records; keep no state in a module or class")


def private_part_opens_nothing(trial: Trial) -> None:
    """The private part opens no file, socket or process while it sees records."""
    _, private = _warm(trial)
    with noting_acts() as acts:
        see(trial, private)
    promise(not acts, f"the private part made {(acts or [''])[0]}; it must read and write nothing but its arguments")


def private_part_says_nothing(trial: Trial) -> None:
    """The private part prints, logs and warns of nothing while it sees records."""
    _, private = _warm(trial)
    with noting_words() as said:
        see(trial, private)
    promise(not said, f"the private part spoke to {(said or [''])[0]}; a log is read by others than the site")


def records_do_not_reach_the_trainer(trial: Trial) -> None:
    """A trainer made after the private part saw records is the one made before."""
    model = trial.model()
    untouched = model.trainer(SEED).state()
    see(trial, model.private())
    promise(
        same_states(untouched, model.trainer(SEED).state()),
        "a trainer differs after the private part saw records; both halves must share the study alone",
    )


def declaration_outlives_records(trial: Trial) -> None:
    """What a model declares does not change after its private part saw records."""
    model = trial.model()
    before = model.sums()
    see(trial, model.private())
    promise(model.sums() == before, "`sums` changed after records were seen; derive it from the study alone")


def _warm(trial: Trial) -> tuple[Model, PrivatePart]:
    """Return a model and its private part, which has met other records, so that lazy set-up is over."""
    model = trial.model()
    private = model.private()
    others = trial.case.draw(FEW, np.random.default_rng(SEED + 7))
    batch = private.encode(others)
    for kind in trial.plan.kinds:
        trial.summed(kind, batch[:FEW], private=private)
    return model, private


def _globals(module: str) -> dict[str, object]:
    """Return a module's own data, functions and classes' attributes: whatever could hold on to a record."""
    found: dict[str, object] = {}
    for name, value in vars(sys.modules[module]).items():
        if isinstance(value, type) and value.__module__ == module:
            found[name] = {key: each for key, each in vars(value).items() if not key.startswith("__")}
        elif not name.startswith("__"):
            found[name] = value
    return found


CHECKS: Final = (
    check(private_part_keeps_nothing, *_GROUND, is_privacy=True),
    check(code_keeps_nothing, *_GROUND, is_privacy=True),
    check(private_part_opens_nothing, *_GROUND, is_privacy=True),
    check(private_part_says_nothing, *_GROUND, is_privacy=True),
    check(records_do_not_reach_the_trainer, *_GROUND, is_privacy=True),
    check(declaration_outlives_records, *_GROUND, is_privacy=True),
)
