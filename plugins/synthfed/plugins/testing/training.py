"""Checks of a trainer: it asks for what it declared, ends, survives lost rounds, and goes on from a checkpoint.

Never gives it more than released sums, as a coordinator would.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from synthfed.protocols.errors import ConfigError

from ..api import Answer
from .check import Broken, check, promise
from .gradients import FEW
from .trial import SEED, State, Trial, same_states

LARGEST: Final = 1e4
"""Of a payload's numbers: a site refuses larger ones."""
TENSORS: Final = frozenset(
    ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"]
)
_GROUND: Final = (
    "statistic-has-one-row-a-record", "core-accepts-every-gradient", "parameters-are-those-of-the-contract"
)  # fmt: skip
_TRAINED: Final = ("trains-to-the-end",)


def trains_to_the_end(trial: Trial) -> None:
    """A trainer ends, having asked for declared sums within their rounds."""
    asked = {ask.sum for ask in trial.training.asks}
    missing = [kind.sum.name for kind in trial.plan.kinds if kind.sum.name not in asked]
    promise(not missing, f"the trainer never asks for {(missing or [''])[0]!r}; do not declare what is not used")


def payload_is_as_declared(trial: Trial) -> None:
    """What leaves the coordinator are the declared arrays: names, order, shapes, float32, finite, not huge."""
    for ask in trial.training.asks:
        declared = dict(trial.kind(ask.sum).sum.payload)
        promise(
            list(ask.payload) == list(declared),
            f"the payload of {ask.sum!r} has arrays {list(ask.payload)}, declared {list(declared)}",
        )
        for name, array in ask.payload.items():
            promise(
                array.shape == declared[name], f"payload {name!r} has shape {array.shape}, declared {declared[name]}"
            )
            promise(array.dtype == np.float32, f"payload {name!r} is {array.dtype}; send float32")
            promise(
                bool(np.isfinite(array).all()) and float(np.abs(array).max(initial=0)) <= LARGEST,
                f"payload {name!r} holds a number that is not finite or beyond {LARGEST:g}; sites refuse it",
            )


def a_seed_fixes_the_training(trial: Trial) -> None:
    """The same seed and answers give the same weights, bit for bit."""
    promise(
        same_states(trial.training.trainer.state(), trial.watched.state),
        "two trainings with one seed and the same answers differ; draw from generators of the seed alone",
    )


def another_seed_starts_elsewhere(trial: Trial) -> None:
    """Another seed gives other initial weights, where there are weights to train."""
    if not trial.kinds("gradient"):
        return  # what only counts has no weights to start from
    one, other = trial.model().trainer(SEED).state(), trial.model().trainer(SEED + 1).state()
    promise(not same_states(one, other), "the seed changes nothing; draw initial weights from it")


def training_leaves_randomness_alone(trial: Trial) -> None:
    """Training moves no global random state."""
    moved = trial.watched.moved
    promise(not moved, f"training moves the global state of {', '.join(moved)}; use generators of your own")


def training_opens_nothing(trial: Trial) -> None:
    """Making and training a model opens no file, socket or process: all it may know are the terms and the answers."""
    acts = trial.watched.acts
    promise(not acts, f"making or training the model made {(acts or [''])[0]}; the core keeps checkpoints and logs")


def settings_are_left_alone(trial: Trial) -> None:
    """Making, training and sampling change no setting of the process, such as torch's default type."""
    changed = trial.watched.changed
    promise(not changed, f"it changes {', '.join(changed)}; pass such choices as arguments, or put them back")


def a_site_needs_no_trainer(trial: Trial) -> None:
    """A private part gives the same sums whether or not a trainer of the same model was trained beside it."""
    model, few = trial.model(), trial.batch[:FEW]
    before = [trial.summed(kind, few) for kind in trial.plan.kinds]
    trial.train(model=model)
    after = [trial.summed(kind, few, private=model.private()) for kind in trial.plan.kinds]
    promise(
        all(np.array_equal(one, other) for one, other in zip(before, after, strict=True)),
        "the private part changes when the trainer trains; at a site there is none, send what it needs as payload",
    )


def checkpoint_is_plain_arrays(trial: Trial) -> None:
    """A checkpoint is named arrays of types that safetensors holds."""
    state = trial.training.trainer.state()
    promise(isinstance(state, Mapping) and state, "`state` is no mapping of arrays")
    for name, array in state.items():
        promise(
            isinstance(name, str) and isinstance(array, np.ndarray) and array.dtype.name in TENSORS,
            f"checkpoint array {name!r} is {getattr(array, 'dtype', type(array).__name__)}; use numbers or booleans",
        )


def checkpoint_is_a_copy(trial: Trial) -> None:
    """Training on does not change a checkpoint that was taken before."""
    trainer = trial.model().trainer(SEED)
    before = trainer.state()
    kept = copy.deepcopy(dict(before))
    ask = trainer.ask({kind.sum.name: kind.sum.rounds for kind in trial.plan.kinds})
    if ask is not None:
        dim = trial.kind(ask.sum).sum.dim
        trainer.receive(Answer(ask.sum, np.random.default_rng(0).normal(size=dim), 1.0, 3))
    promise(same_states(kept, before), "a checkpoint changes when training goes on; return copies from `state`")


def training_goes_on_from_a_checkpoint(trial: Trial) -> None:
    """From any checkpoint the training ends as it would have ended, bit for bit."""
    training = trial.training
    rounds = {kind.sum.name: kind.sum.rounds for kind in trial.plan.kinds}
    for index in sorted({1, len(training.asks) // 2, len(training.asks)}):
        left = dict(rounds)
        for ask in training.asks[:index]:
            left[ask.sum] -= 1
        resumed = trial.train(seed=SEED + 3, start=(training.states[index], index, left))
        promise(
            same_states(training.trainer.state(), resumed.trainer.state()),
            f"a training resumed before round {index + 1} ends elsewhere; "
            "put everything that training uses into `state`",
        )


def a_wrong_checkpoint_is_refused(trial: Trial) -> None:
    """A checkpoint that lacks an array or has one of another shape is refused with a ConfigError."""
    state = trial.training.trainer.state()
    largest = max(state, key=lambda name: state[name].size)
    wrong: dict[str, State] = {
        "lacks an array": {name: array for name, array in state.items() if name != largest},
        "has an array of another shape": state | {largest: np.zeros(state[largest].size + 1)},
        "is empty": {},
    }
    for what, each in wrong.items():
        try:
            trial.model().trainer(SEED).load(each)
        except ConfigError:
            continue
        except Exception as error:
            raise Broken(f"a checkpoint that {what} raises {type(error).__name__}; raise ConfigError") from error
        raise Broken(f"a checkpoint that {what} is taken; compare names and shapes in `load`")


def lost_rounds_are_survived(trial: Trial) -> None:
    """A training in which every second round is lost, or every statistic, ends with records to sample."""
    for lost in (lambda _, index: index % 2 == 0, lambda ask, _: trial.kind(ask.sum).sum.family == "statistic"):
        trainer = trial.train(fails=lost).trainer
        drawn = trial.sample(20, trainer=trainer)
        promise(drawn.shape == (20, trial.case.width), "after lost rounds samples have another shape")
        promise(not np.isinf(drawn).any(), "after lost rounds samples are infinite")


def great_noise_is_survived(trial: Trial) -> None:
    """A training under a thousand times the planned noise ends with finite weights."""
    state = trial.train(noise=1000.0).trainer.state()
    bad = [name for name, array in state.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    promise(not bad, f"under great noise {(bad or [''])[0]!r} is no longer finite; bound steps and denominators")


def fewer_sites_are_survived(trial: Trial) -> None:
    """A training in which one site less answers ends with finite weights."""
    state = trial.train(sites=2).trainer.state()
    bad = [name for name, array in state.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    promise(not bad, f"with two of three sites {(bad or [''])[0]!r} is not finite; use `answer.sites`")


def overlap_is_optional(trial: Trial) -> None:
    """Whether and how often `overlap` is called changes nothing but the time."""
    expected = trial.training.trainer.state()
    for times in (0, 2):
        promise(
            same_states(expected, trial.train(overlaps=times).trainer.state()),
            f"a training with `overlap` called {times} times a round ends elsewhere; "
            "do its work once, there or in `receive`",
        )


def answers_are_left_alone(trial: Trial) -> None:
    """A trainer does not write into a released sum."""
    trainer = trial.model().trainer(SEED)
    ask = trainer.ask({kind.sum.name: kind.sum.rounds for kind in trial.plan.kinds})
    if ask is None:
        return
    total: npt.NDArray[Any] = np.random.default_rng(0).normal(size=trial.kind(ask.sum).sum.dim)
    kept = total.copy()
    trainer.receive(Answer(ask.sum, total, 1.0, 3))
    promise(np.array_equal(total, kept), "`receive` changes the answer; work on a copy")


def progress_is_numbers(trial: Trial) -> None:
    """Progress is a few finite numbers by name."""
    numbers = trial.training.trainer.progress()
    for name, value in numbers.items():
        promise(
            isinstance(name, str) and isinstance(value, float | int) and math.isfinite(value),
            f"progress {name!r} is {value!r}; return finite numbers",
        )
    promise(len(numbers) <= 50, "progress has more than 50 numbers; return a few that describe the training")


CHECKS: Final = (
    check(trains_to_the_end, *_GROUND),
    check(payload_is_as_declared, *_TRAINED, is_privacy=True),
    check(
        a_seed_fixes_the_training,
        *_TRAINED,
        "statistic-repeats",
        "gradient-repeats",
        "records-reach-no-other-half",
    ),
    check(another_seed_starts_elsewhere, *_TRAINED),
    check(training_leaves_randomness_alone, *_TRAINED, "statistic-draws-nothing", "making-leaves-randomness-alone"),
    check(training_opens_nothing, *_TRAINED, "private-part-opens-nothing"),
    check(settings_are_left_alone, *_TRAINED, "samples-have-the-shape"),
    check(a_site_needs_no_trainer, "a-seed-fixes-the-training", is_privacy=True),
    check(checkpoint_is_plain_arrays, *_TRAINED),
    check(checkpoint_is_a_copy, "checkpoint-is-plain-arrays"),
    check(training_goes_on_from_a_checkpoint, "a-seed-fixes-the-training", "checkpoint-is-a-copy"),
    check(a_wrong_checkpoint_is_refused, "checkpoint-is-plain-arrays"),
    check(lost_rounds_are_survived, *_TRAINED, "samples-have-the-shape"),
    check(great_noise_is_survived, *_TRAINED),
    check(fewer_sites_are_survived, *_TRAINED),
    check(overlap_is_optional, "a-seed-fixes-the-training"),
    check(answers_are_left_alone, *_TRAINED),
    check(progress_is_numbers, *_TRAINED),
)
