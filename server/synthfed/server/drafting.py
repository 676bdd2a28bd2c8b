"""Makes studies: a complete draft from a public table and its author's wishes, and the same study for other sites.

Never reads a private table: bounds and categories must come from what is public.
"""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from synthfed.plugins.files import read_text
from synthfed.plugins.pinning import pin
from synthfed.plugins.registry import find
from synthfed.protocols.cohort import Cohort, Site, least_quorum, least_tolerated
from synthfed.protocols.enrolment import Enrolment, parse
from synthfed.protocols.errors import ConfigError, describe
from synthfed.protocols.schema import Column
from synthfed.protocols.study import FORMAT, Aggregation, ModelTerms, Privacy, Study

from .wishes import Wishes, flag_of, pairs

_Part = TypeVar("_Part", bound=BaseModel)

_SECONDS_PER_ENTRY: Final = {"statistic": (2e-8, "statistic_time_s"), "gradient": (2e-9, "answer_time_s")}
_SECONDS_PER_VALUE: Final = 1e-7  # noise and masks


def draft_study(wishes: Wishes) -> Study:
    """Return a complete study whose schema is drafted from a public or dummy file.

    Raises:
        ConfigError: the file or a wish does not give a valid study.
        PluginError: there is no such model or domain.
    """
    options = read_options(wishes.option or [])
    sites = make_roster(wishes.site or [], wishes.enrolment or [], wishes.controller or [])
    if len(sites) < 2:
        raise ConfigError("give at least two sites with --site NAME or --enrolment FILE")
    privacy = _terms(Privacy, wishes)
    model = _terms(ModelTerms, wishes, plugin=wishes.model, options=options)
    aggregation = _terms(Aggregation, wishes)
    plugin = find("synthfed.models", model.plugin)
    columns = _draft_columns(wishes, privacy.unit)
    tolerated, quorum = wishes.tolerated, wishes.quorum
    if tolerated is None:
        tolerated = 1 if privacy.mode == "local" else least_tolerated(sites, wishes.operator)
    if quorum is None:
        quorum = min(len(sites), least_quorum(len(sites), tolerated, privacy.mode))
    study = make_study(
        name=wishes.name or wishes.out.stem,
        target=wishes.target,
        domain=wishes.domain,
        site_column=wishes.site_column,
        purpose=wishes.purpose,
        privacy=privacy,
        model=model,
        cohort=_wished(Cohort, wishes) | {"sites": sites, "tolerated": tolerated, "quorum": quorum},
        aggregation=aggregation,
        columns=columns,
    )
    if model.options:  # only the plugin knows what they may be, and importing one takes seconds
        plugin.make(study)
    return study


def _wished(part: type[BaseModel], wishes: Wishes) -> dict[str, Any]:
    """Return those of a part's fields that there are wishes for."""
    given = {wish.name: getattr(wishes, wish.name) for wish in fields(wishes)}
    return {name: given[name] for name in part.model_fields if given.get(name) is not None}


def _terms(part: type[_Part], wishes: Wishes, **others: Any) -> _Part:
    """Return a part of a study's terms; what is wrong with a field is said of its flag."""
    chosen = _wished(part, wishes) | others
    try:
        return part.model_validate(chosen)
    except ValidationError as error:
        field, _, problem = describe(error).partition(": ")
        if field not in chosen:  # something about several of them
            raise ConfigError(describe(error)) from None
        raise ConfigError(problem, where=flag_of(field)) from None


def with_enough_time(study: Study) -> Study:
    """Return the study with answer times that most machines keep, where its author gave none.

    Estimated from the size of the largest sum, all steps of its round (three times what one core of the README's
    machine takes);
    `synthfed client check` measures what a site really needs.

    Raises:
        ConfigError: the promise cannot be met.
        PluginError: the model plugin does not accept its options.
    """
    needed_s = {"answer_time_s": study.privacy.answer_time_s, "statistic_time_s": study.privacy.statistic_time_s}
    for kind in pin(study).policy.plan.kinds:
        per_entry_s, field = _SECONDS_PER_ENTRY[kind.sum.family]
        estimate_s = kind.sum.steps * kind.sum.dim * (kind.slots * per_entry_s + _SECONDS_PER_VALUE)
        needed_s[field] = min(600.0, max(needed_s[field], math.ceil(20 * estimate_s) / 20))
    missing = {field: value for field, value in needed_s.items() if field not in study.privacy.model_fields_set}
    return study.model_copy(update={"privacy": study.privacy.model_copy(update=missing)})


def _draft_columns(wishes: Wishes, unit: str | None) -> Sequence[Column]:
    table, drop = wishes.source, wishes.drop or []
    try:
        plugin = find("synthfed.domains", wishes.domain).make()
        columns: Sequence[Column] = plugin.draft(table, exclude={*drop, unit} - {None})
    except ConfigError as error:
        # A column that is left out appears in no error but the one that it is not there.
        if unit is not None and unit not in drop and repr(unit) in str(error):
            raise ConfigError(f"has no column {unit!r} to name the unit; check --unit", where=str(table)) from None
        raise
    return columns


def read_options(texts: Sequence[str]) -> dict[str, Any]:
    """Return a model's options from texts NAME=VALUE, the value as in TOML."""
    options: dict[str, Any] = {}
    for name, text in pairs(texts, "NAME=VALUE", where="--option").items():
        try:
            (options[name],) = tomllib.loads(f"value = {text}").values()
        except (ValueError, RecursionError):  # also more than one value
            raise ConfigError(
                f"the value of {name!r} must be one TOML value, text in quotes of its own: '{name}=\"text\"'",
                where="--option",
            ) from None
    return options


def make_roster(names: Sequence[str], files: Sequence[Path], controllers: Sequence[str]) -> list[Site]:
    """Return the roster's entries.

    Args:
        names: sites that have no key yet, which makes the study a draft.
        files: enrolment files of sites with their keys.
        controllers: SITE=NAME, who controls a site whose enrolment does not say so.

    Raises:
        ConfigError: a file is no enrolment, a name is none, or a controller is that of no site.
    """
    entries, controlled_by = [], pairs(controllers, "SITE=NAME", where="--controller")
    for file in files:
        enrolment = parse(Enrolment, read_text(file), where=str(file))
        enrolment.verify(where=str(file))
        entries.append(enrolment.roster_entry)
    for name in names:
        try:
            entries.append(Site(id=name))
        except ValidationError as error:
            raise ConfigError(describe(error).removeprefix("id: "), where=f"--site {name}") from None
    for site, controller in controlled_by.items():
        known = next((entry for entry in entries if entry.id == site), None)
        if known is None or known.controller:
            why = "is no site of this study" if known is None else "names its controller in its enrolment"
            raise ConfigError(f"{site!r} {why}; leave it out", where="--controller")
        entries[entries.index(known)] = known.model_copy(update={"controller": controller})
    return entries


def make_study(**terms: Any) -> Study:
    """Return the study of these terms, named as in its file; ConfigError says which of them do not fit."""
    try:
        return Study.model_validate({"format": FORMAT, **terms})
    except ValidationError as error:
        raise ConfigError(describe(error), where="study") from None


def with_sites(study: Study, sites: Sequence[Site]) -> Study:
    """Return the study with another roster; tolerated and quorum stay where the new roster allows them."""
    mode = study.privacy.mode
    tolerated = min(study.cohort.tolerated, max(1, len(sites) - 2))
    least = least_quorum(len(sites), tolerated, mode)
    quorum = min(len(sites), max(least, min(study.cohort.quorum, len(sites))))
    cohort = {**vars(study.cohort), "sites": sites, "tolerated": tolerated, "quorum": quorum}
    return make_study(**{**vars(study), "cohort": cohort})
