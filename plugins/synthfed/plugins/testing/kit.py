"""The kit's entrances: every check of a model, a domain or an audit, on each kind of data that it takes.

Never installs, loads or pins a plugin: it is handed the class.
"""

from collections.abc import Collection, Mapping
from typing import Any

from synthfed.protocols.errors import ConfigError

from ..api import Audit, Domain, Model
from ..registry import FOREIGN
from . import audits, domains
from .cases import Case, cases
from .checks import CHECKS
from .suite import Conformance, Report, Suite, every, report
from .trial import Trial


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
        ConfigError: the plugin takes none of the kit's data or not all that are named, or a waiver names no
            check or gives no reason.
    """
    return every(Suite(CHECKS, _trials(plugin, options or {}, kinds), waivers or {}))


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
    return report(plugin, conformance(plugin, options=options, waivers=waivers, kinds=kinds))


def domain_conformance(plugin: type[Domain], *, waivers: Mapping[str, str] | None = None) -> list[Conformance]:
    """Return every check of a domain plugin; arguments and errors as `conformance`."""
    subjects = [domains.Reading(plugin, case) for case in cases() if domains.is_taken(plugin, case)]
    return every(Suite(domains.CHECKS, _any(subjects, plugin, []), waivers or {}))


def check_domain(plugin: type[Domain], *, waivers: Mapping[str, str] | None = None) -> Report:
    """Return the results of every check of a domain plugin; arguments and errors as `conformance`."""
    return report(plugin, domain_conformance(plugin, waivers=waivers))


def audit_conformance(plugin: type[Audit], *, waivers: Mapping[str, str] | None = None) -> list[Conformance]:
    """Return every check of an audit plugin; arguments and errors as `conformance`."""
    subjects = [audits.Auditing(plugin, case) for case in cases() if audits.is_taken(plugin, case)]
    return every(Suite(audits.CHECKS, _any(subjects, plugin, []), waivers or {}))


def check_audit(plugin: type[Audit], *, waivers: Mapping[str, str] | None = None) -> Report:
    """Return the results of every check of an audit plugin; arguments and errors as `conformance`."""
    return report(plugin, audit_conformance(plugin, waivers=waivers))


def _trials(plugin: type[Model], options: Mapping[str, Any], kinds: Collection[str] | None) -> list[Trial]:
    """Return a trial for each kind of data that the plugin's constructor takes; it must take those named."""
    unknown = sorted(set(kinds or ()) - {case.name for case in cases()})
    if unknown:
        raise ConfigError(f"{unknown[0]!r} is not one of {', '.join(repr(case.name) for case in cases())}; mend it")
    made, refusals = [], []
    for case in cases():
        if kinds is None or case.name in kinds:
            trial = Trial(plugin, case, options)
            refusal = _refusal(trial, case)
            made += [] if refusal else [trial]
            refusals += [refusal] if refusal else []
    if kinds is not None and made and refusals:
        raise ConfigError(
            f"does not take a kind of data that was named ({'; '.join(refusals)}); leave it out, or mend the options",
            where=plugin.__name__,
        )
    return _any(made, plugin, refusals)


def _refusal(trial: Trial, case: Case) -> str:
    try:
        trial.model()
    except ConfigError as error:
        return f"{case.name}: {error}"
    except FOREIGN as error:  # the check of unfit columns tells of it, too
        return f"{case.name}: {type(error).__name__}"
    return ""


def _any(subjects: list[Any], plugin: type, refusals: Collection[str]) -> list[Any]:
    if not subjects:
        raise ConfigError(
            "takes none of the kit's kinds of data, so nothing can be checked; give the kit options that suit it"
            + (f" ({'; '.join(refusals)})" if refusals else ""),
            where=plugin.__name__,
        )
    return subjects
