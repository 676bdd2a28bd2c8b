"""Checks of what a plugin declares: options, sums, conditions, documentation.

Never looks at records: everything here must hold before the first one is read.
"""

import inspect
import sys
from typing import Final

from pydantic import BaseModel, ValidationError

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import ArrayColumn
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum

from ..api import Model, PrivatePart, Trainer
from .cases import cases
from .check import Broken, check, promise
from .surroundings import noting_randomness
from .trial import Trial


def class_is_documented(trial: Trial) -> None:
    """The class and its module say what the model is."""
    module = sys.modules[trial.plugin.__module__]
    for thing, what in ((trial.plugin, "class"), (module, "module")):
        promise((thing.__doc__ or "").strip(), f"the {what} has no docstring; say shapes, loss, source, private part")


def options_are_strict(trial: Trial) -> None:
    """Options are a pydantic model that neither coerces nor lets anything extra in."""
    options = trial.plugin.Options
    promise(isinstance(options, type) and issubclass(options, BaseModel), "`Options` is no pydantic model; derive one")
    config = options.model_config
    promise(
        config.get("extra") == "forbid" and config.get("strict") and config.get("frozen"),
        '`Options` is not strict; derive it from `synthfed.protocols.schema.Strict` (extra="forbid", strict, frozen)',
    )


def options_have_defaults(trial: Trial) -> None:
    """A study that sets no option is a valid one."""
    try:
        trial.plugin.Options()
    except ValidationError as error:
        name = ".".join(map(str, error.errors()[0]["loc"]))
        raise Broken(f"option {name!r} has no default; give it one") from None


def options_are_described(trial: Trial) -> None:
    """Every option is named in the docstring of the class that declares it."""
    docs = " ".join(each.__doc__ or "" for each in trial.plugin.Options.__mro__ if each is not BaseModel)
    missing = [name for name in trial.plugin.Options.model_fields if f"{name}:" not in docs]
    promise(not missing, f"option {(missing or [''])[0]!r} is not described in its docstring; add `name: what it does`")


def a_wrong_option_is_refused(trial: Trial) -> None:
    """An option that is not known is refused with a ConfigError that names it."""
    try:
        trial.plugin(trial.case.study({**trial.options, "no_such_option": 1}))
    except ConfigError as error:
        promise("no_such_option" in str(error), "the error about an unknown option does not name it; use `describe`")
    except Exception as error:
        raise Broken(f"an unknown option raises {type(error).__name__}; raise ConfigError") from error
    else:
        raise Broken("an unknown option is taken; validate `study.model.options` against `Options`")


def a_wrong_value_is_refused(trial: Trial) -> None:
    """An option with a value of another type is refused with a ConfigError, unless any text will do."""
    for name in trial.plugin.Options.model_fields:
        try:
            trial.plugin(trial.case.study({**trial.options, name: "no such value"}))
        except ConfigError:
            continue
        except Exception as error:
            message = f"a wrong value of option {name!r} raises {type(error).__name__}; raise ConfigError"
            raise Broken(message) from error


def unfit_columns_are_refused(trial: Trial) -> None:
    """Data that the model is not made for are refused with a ConfigError."""
    for case in cases():
        try:
            trial.plugin(case.study(trial.options))
        except ConfigError:
            continue
        except Exception as error:
            raise Broken(f"{case.name} raises {type(error).__name__}; refuse such columns with ConfigError") from error


def study_is_left_alone(trial: Trial) -> None:
    """Neither the model nor its halves write into the study's terms, which every party has signed."""
    study = trial.case.study(trial.options)
    before = study.canonical
    model = trial.plugin(study)
    model.sums(), model.private(), model.trainer(0)
    promise(study.canonical == before, "the model changes the study; copy what you need of it")


def sums_are_declared(trial: Trial) -> None:
    """There is a sum, and each has a name of its own."""
    sums = trial.model().sums()
    promise(isinstance(sums, tuple) and sums, "`sums` is no tuple with at least one sum; declare what the model asks")
    promise(all(isinstance(each, Sum) for each in sums), "`sums` holds something that is no Sum")
    names = [each.name for each in sums]
    promise(len(set(names)) == len(names), "two sums have one name; give each its own")


def shares_are_whole(trial: Trial) -> None:
    """The sums' shares of the budget add up to 1, so that each option says what it means."""
    total = sum(each.share for each in trial.model().sums())
    promise(abs(total - 1) < 1e-6, f"the shares add up to {total:.6g}; make them add up to 1")


def declaration_is_the_same_everywhere(trial: Trial) -> None:
    """Two parties that read the same terms declare the same sums."""
    read_anew = Study.model_validate_json(trial.study.canonical)
    one, other = trial.model().sums(), trial.plugin(read_anew).sums()
    promise(one == other, "two instances of one study declare different sums; let them follow from the study alone")


def a_plan_exists(trial: Trial) -> None:
    """The study's budget can be shared among the sums."""
    promise(trial.plan.kinds, "no plan can be made")


def conditions_are_columns(trial: Trial) -> None:
    """What sampling can fix are columns of the study, and none of them an array."""
    columns = {column.name for column in trial.case.columns if not isinstance(column, ArrayColumn)}
    conditions = trial.model().conditions
    promise(isinstance(conditions, tuple), "`conditions` is no tuple of names")
    wrong = [name for name in conditions if name not in columns]
    promise(
        not wrong,
        f"condition {(wrong or [''])[0]!r} is no column of the study with one value in each record; leave it out",
    )


def modules_match_their_sums(trial: Trial) -> None:
    """A gradient sum's payload is its module's parameters, and its length that of those to be trained."""
    private = trial.model().private()
    for kind in trial.kinds("gradient"):
        named = [(name, tuple(each.shape)) for name, each in private.module(kind.sum.name).named_parameters()]
        shapes = [shape for _, shape in kind.sum.payload]
        promise(
            shapes == [shape for _, shape in named],
            f"the payload of {kind.sum.name!r} is not its module's parameters in their order; derive it from them",
        )
        trained = sum(each.numel() for each in private.module(kind.sum.name).parameters() if each.requires_grad)
        promise(
            trained == kind.sum.dim,
            f"{kind.sum.name!r} declares {kind.sum.dim} numbers, its module has {trained} to be trained",
        )


def making_leaves_randomness_alone(trial: Trial) -> None:
    """Making the model, its modules and its trainer moves no global random state."""
    with noting_randomness() as moved:
        model = trial.model()
        for each in model.sums():
            if each.family == "gradient":
                model.private().module(each.name)
        model.trainer(0)
    promise(not moved, f"it moves the global state of {', '.join(moved)}; use generators of your own or fork_rng")


def parameters_are_those_of_the_contract(trial: Trial) -> None:
    """Every method has the parameters of the contract under their names."""
    model = trial.model()
    for thing, wanted in ((model, Model), (model.private(), PrivatePart), (model.trainer(0), Trainer)):
        for name, method in inspect.getmembers(wanted, inspect.isfunction):
            if not name.startswith("_"):
                found = getattr(type(thing), name, None)
                promise(found, f"{type(thing).__name__} has no method {name!r}; add it")
                names = list(inspect.signature(method).parameters)
                promise(
                    list(inspect.signature(found).parameters) == names,  # type: ignore[arg-type]
                    f"{type(thing).__name__}.{name} does not take ({', '.join(names)}); mend its parameters",
                )


CHECKS: Final = (
    check(class_is_documented),
    check(options_are_strict),
    check(options_have_defaults),
    check(options_are_described),
    check(a_wrong_option_is_refused),
    check(a_wrong_value_is_refused),
    check(unfit_columns_are_refused),
    check(study_is_left_alone),
    check(sums_are_declared),
    check(shares_are_whole, "sums-are-declared"),
    check(declaration_is_the_same_everywhere, "sums-are-declared"),
    check(a_plan_exists, "sums-are-declared"),
    check(conditions_are_columns),
    check(parameters_are_those_of_the_contract),
    check(modules_match_their_sums, "a-plan-exists"),
    check(making_leaves_randomness_alone, "sums-are-declared"),
)
