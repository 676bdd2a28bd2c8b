"""Running the checks: on every kind of data a plugin takes, one result each, waivers with reasons.

Never takes a check for passed that could not be asked, and never hides a waiver.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from synthfed.protocols.errors import ConfigError

from ..api import Model
from .cases import cases
from .checks import CHECKS, Check
from .trial import Broken, Trial

Outcome = Literal["passed", "failed", "waived", "not asked"]


@dataclass(frozen=True, slots=True)
class Result:
    """What one check said of a plugin on one kind of data.

    Attributes:
        check: its name.
        case: the kind of data.
        outcome: ``not asked`` where a check it builds on failed.
        sentence: why, empty where it passed.
    """

    check: str
    case: str
    outcome: Outcome
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All results of one plugin.

    Attributes:
        plugin: the class's name.
        results: in the order of the checks, kind of data by kind of data.
    """

    plugin: str
    results: tuple[Result, ...]

    @property
    def is_conformant(self) -> bool:
        """Whether every check passed or was waived."""
        return all(result.outcome in ("passed", "waived") for result in self.results)

    def failed(self) -> tuple[str, ...]:
        """Return the names of the checks that failed, each once."""
        return tuple(dict.fromkeys(each.check for each in self.results if each.outcome == "failed"))

    def __str__(self) -> str:
        """Return one line for each check that did not simply pass, and the count of those that did."""
        told = [
            f"{each.outcome}: {each.check} ({each.case}): {each.sentence}"
            for each in self.results
            if each.outcome != "passed"
        ]
        passed = sum(each.outcome == "passed" for each in self.results)
        return "\n".join([*told, f"{self.plugin}: {passed} of {len(self.results)} checks passed"])


class Conformance:
    """One check of one plugin on one kind of data; call it in a test."""

    def __init__(self, trial: Trial, check: Check, waivers: Mapping[str, str]) -> None:
        """Share the trial, and so its training, with the other checks of the same kind of data."""
        self._trial, self._check, self._waivers = trial, check, waivers

    def __str__(self) -> str:
        """Return a name for the test's report."""
        return f"{self._check.name}-{self._trial.case.name.replace(' ', '-')}"

    def __call__(self) -> None:
        """Run the check; AssertionError with its sentence where it failed or a waiver is not needed."""
        result = run(self._trial, self._check, self._waivers)
        if result.outcome in ("failed", "not asked"):
            raise AssertionError(f"{result.outcome}: {result.check}: {result.sentence}")


def conformance(
    plugin: type[Model],
    *,
    options: Mapping[str, Any] | None = None,
    waivers: Mapping[str, str] | None = None,
    kinds: Collection[str] | None = None,
) -> list[Conformance]:
    """Return every check of a model plugin, to parametrise one test with.

    Args:
        plugin: the model's class.
        options: of the studies, such as ones that make training short.
        waivers: by a check's name, why the plugin need not pass it.
        kinds: names of the kinds of data to check it on; None for all that it takes.

    Raises:
        ConfigError: the plugin takes none of the kit's data, or a waiver names no check or gives no reason.
    """
    given = waivers or {}
    _check_waivers(given)
    return [Conformance(trial, check, given) for trial in trials(plugin, options or {}, kinds) for check in CHECKS]


def check_model(
    plugin: type[Model],
    *,
    options: Mapping[str, Any] | None = None,
    waivers: Mapping[str, str] | None = None,
    kinds: Collection[str] | None = None,
) -> Report:
    """Return the results of every check of a model plugin on every kind of data that it takes.

    Args and errors: as `conformance`.
    """
    given = waivers or {}
    _check_waivers(given)
    found = [run(trial, check, given) for trial in trials(plugin, options or {}, kinds) for check in CHECKS]
    return Report(plugin.__name__, tuple(found))


def trials(plugin: type[Model], options: Mapping[str, Any], kinds: Collection[str] | None = None) -> list[Trial]:
    """Return a trial for each kind of data, of those named, that the plugin's constructor takes.

    Raises:
        ConfigError: it takes none of them.
    """
    made, refusals = [], []
    for case in cases():
        if kinds is not None and case.name not in kinds:
            continue
        trial = Trial(plugin, case, options)
        try:
            trial.model()
        except ConfigError as error:
            refusals.append(f"{case.name}: {error}")
        except Exception:  # noqa: BLE001, S112  (foreign code; the check of unfit schemas tells of it)
            continue
        else:
            made.append(trial)
    if not made:
        raise ConfigError(
            "takes none of the kit's kinds of data, so nothing can be checked; give the kit options that suit it "
            f"({'; '.join(refusals)})",
            where=plugin.__name__,
        )
    return made


def run(trial: Trial, check: Check, waivers: Mapping[str, str]) -> Result:
    """Return what a check says of a plugin on one kind of data."""
    name, case = check.name, trial.case.name
    missing = next((need for need in check.needs if not _holds(trial, need)), "")
    if missing:
        outcome: Outcome = "waived" if missing in waivers else "not asked"
        return Result(name, case, outcome, f"it builds on {missing}, which failed")
    sentence = _sentence(trial, check)
    if name in waivers:
        if not sentence:
            return Result(name, case, "failed", "passes, so its waiver is not needed; remove the waiver")
        return Result(name, case, "waived", f"{waivers[name]} [{sentence}]")
    return Result(name, case, "failed" if sentence else "passed", sentence)


def _holds(trial: Trial, name: str) -> bool:
    check = next(each for each in CHECKS if each.name == name)
    return all(_holds(trial, need) for need in check.needs) and not _sentence(trial, check)


def _sentence(trial: Trial, check: Check) -> str:
    """Return what is wrong, empty where nothing is; each check runs once in a trial."""
    if check.name not in trial.told:
        trial.told[check.name] = _told(trial, check)
    return trial.told[check.name]


def _told(trial: Trial, check: Check) -> str:
    try:
        check.run(trial)
    except Broken as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  (foreign code may raise anything; here all data are made up)
        return f"it raises {type(error).__name__}: {error}"
    return ""


def _check_waivers(waivers: Mapping[str, str]) -> None:
    names = {check.name for check in CHECKS}
    for name, reason in waivers.items():
        if name not in names:
            raise ConfigError(f"{name!r} is no check; mend the name", where="waivers")
        if not reason.strip():
            raise ConfigError(
                f"the waiver of {name!r} gives no reason; say why the plugin need not pass", where="waivers"
            )
