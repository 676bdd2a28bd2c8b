"""Checks that a private part keeps nothing of records, shows nothing and looks at nothing else while it sees them.

Never finds what foreign code hides on purpose: for that a site pins the hash of the code it has read.
"""

import sys
from collections import Counter
from typing import Final

from ..api import Array, Model, PrivatePart
from .calls import Shapes, noting_calls
from .check import check, promise
from .encoding import strange_records
from .gradients import FEW
from .residue import difference, memory_of
from .trial import SEED, Trial, same_states
from .watch import noting_acts, noting_words

_GROUND: Final = ("encoding-is-by-the-schema", "statistic-has-one-row-a-record", "core-accepts-every-gradient")
_OUTSIDE: Final = (
    "_socket.", "_thread.start", "asyncio.", "concurrent.", "ctypes.", "datetime.date.today",
    "datetime.datetime.now", "datetime.datetime.today", "datetime.datetime.utcnow", "gc.", "getpass.",
    "inspect.", "locale.", "multiprocessing.", "os.environ.", "os.getenv", "platform.", "posix.getcwd",
    "posix.getpid", "posix.uname", "posix.urandom", "secrets.", "sys._getframe", "threading.Thread",
    "threading.Timer", "time.", "traceback.", "uuid.",
)  # fmt: skip
"""How the names of functions begin that reach beyond a function's arguments."""


def see(trial: Trial, private: PrivatePart, seed: int = SEED) -> None:
    """Let a private part see records in every way there is: through the core, among padding, and without any."""
    batch = private.encode(trial.other_records(seed))
    for kind in trial.plan.kinds:
        trial.summed(kind, batch[:FEW], private=private)
    look(trial, private, batch)


def look(trial: Trial, private: PrivatePart, batch: Array) -> None:
    """Let a private part see a batch without padding."""
    for kind in trial.kinds("statistic"):
        trial.statistic(kind.sum.name, batch, private)
    for kind in trial.kinds("gradient"):
        trial.loss(kind.sum, batch, private, trial.module(kind.sum, private))


def private_part_keeps_nothing(trial: Trial) -> None:
    """Neither the private part nor its model remembers anything of the records it saw."""
    model, private = _warm(trial)
    before = memory_of((model, private))
    see(trial, private)
    changed = difference(before, memory_of((model, private)))
    promise(not changed, f"{changed!r} changed while the private part saw records; keep nothing of them")


def first_records_leave_no_mark(trial: Trial) -> None:
    """What a private part sets up when it first meets records is the same whatever they are."""
    one, other = _warm(trial), _warm(trial, SEED)
    changed = difference(memory_of(one), memory_of(other))
    promise(not changed, f"{changed!r} is made from the first records seen; derive it from the study")


def code_keeps_nothing(trial: Trial) -> None:
    """No global of the plugin's package and no attribute of its classes changes while it sees records."""
    _, private = _warm(trial)
    before = memory_of(_code(trial, private))
    see(trial, private)
    changed = difference(before, memory_of(_code(trial, private)))
    promise(not changed, f"{changed!r} of the code changed while it saw records; keep no state in a module or class")


def records_reach_no_other_half(trial: Trial) -> None:
    """Sums declared and a trainer made after a private part saw records are those of before."""
    model, _ = _warm(trial)
    declared, untouched = model.sums(), model.trainer(SEED).state()
    see(trial, model.private())
    promise(model.sums() == declared, "`sums` changed after records were seen; derive it from the study alone")
    promise(
        same_states(untouched, model.trainer(SEED).state()),
        "a trainer differs after the private part saw records; both halves must share the study alone",
    )


def private_part_opens_nothing(trial: Trial) -> None:
    """The private part opens no file or socket and starts no process while it sees records."""
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


def private_part_looks_at_nothing_else(trial: Trial) -> None:
    """The private part asks neither clock nor environment, entropy or its callers' frames, and starts no thread."""
    _, private = _warm(trial)
    with noting_calls(trial.package) as calls:
        see(trial, private)
    outside = next((name for name in calls if name.startswith(_OUTSIDE)), "")
    promise(not outside, f"the private part calls {outside}; it may depend on its arguments alone")


def work_is_the_same_for_all_records(trial: Trial) -> None:
    """For as many other records the private part makes the same calls, on tensors of the same shapes."""
    _, private = _warm(trial)
    usual = trial.batch
    odd = private.encode(strange_records(trial.records))
    seen = [_work(trial, private, batch[: len(odd)]) for batch in (usual, odd, usual[::-1].copy())]
    promise(
        all(each == seen[0] for each in seen),
        "the private part does other work for other records, which shows in its time; use no branch, loop or "
        "selection that depends on a value",
    )


def _work(trial: Trial, private: PrivatePart, batch: Array) -> tuple[Counter[str], list[str]]:
    with noting_calls(trial.package) as calls, Shapes() as shapes:
        look(trial, private, batch)
    return Counter(calls), shapes.noted


def _warm(trial: Trial, seed: int = SEED + 7) -> tuple[Model, PrivatePart]:
    """Return a model and its private part, which has met other records, so that lazy set-up is over."""
    model = trial.model()
    private = model.private()
    see(trial, private, seed)
    return model, private


def _code(trial: Trial, private: PrivatePart) -> dict[str, object]:
    """Return all data, functions and classes of a plugin's package: whatever could hold on to a record."""
    found: dict[str, object] = {name: _members(vars(sys.modules[name]), name) for name in trial.package.modules()}
    for kind in (*type(private).__mro__, *trial.plugin.__mro__):
        if trial.package.holds(kind.__module__):
            found[kind.__qualname__] = _members(vars(kind), kind.__module__)
    return found


def _members(names: object, module: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in dict(names).items():  # type: ignore[call-overload]
        if not name.startswith("__"):
            own_class = isinstance(value, type) and value.__module__ == module
            found[name] = _members(vars(value), module) if own_class else value
    return found


CHECKS: Final = (
    check(private_part_keeps_nothing, *_GROUND, is_privacy=True),
    check(first_records_leave_no_mark, "private-part-keeps-nothing", is_privacy=True),
    check(code_keeps_nothing, *_GROUND, is_privacy=True),
    check(records_reach_no_other_half, *_GROUND, "declaration-is-the-same-everywhere", is_privacy=True),
    check(private_part_opens_nothing, *_GROUND, is_privacy=True),
    check(private_part_says_nothing, *_GROUND, is_privacy=True),
    check(private_part_looks_at_nothing_else, *_GROUND, is_privacy=True),
    check(work_is_the_same_for_all_records, *_GROUND, is_privacy=True),
)
