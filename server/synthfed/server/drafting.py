"""Writes study files: a complete draft from a public table, and any study as TOML.

Never reads a private table: bounds and categories must come from what is public.
"""

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from synthfed.plugins.files import read_text
from synthfed.plugins.pinning import pin
from synthfed.plugins.registry import find
from synthfed.protocols.cohort import Site, least_quorum, least_tolerated
from synthfed.protocols.enrolment import Enrolment, parse
from synthfed.protocols.errors import ConfigError, describe
from synthfed.protocols.schema import Categorical, Column, Integer, Real
from synthfed.protocols.study import FORMAT, Aggregation, ModelTerms, Privacy, Study

_AGGREGATION: Final = Aggregation()
_SECONDS_PER_ENTRY: Final = {"statistic": (2e-8, "statistic_time_s"), "gradient": (2e-9, "answer_time_s")}
_SECONDS_PER_VALUE: Final = 1e-7  # noise and masks
_FLOOR: Final = "least noise of one site alone, in clip norms"
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_HEAD: Final = """\
# The terms of a study: every site agrees to this file, byte by byte, before a record is read.
# Bounds and categories were agreed from public knowledge. NEVER take them from private records:
# a minimum, a maximum or a rare category of a real table can give a person away.
"""


def draft_study(
    table: Path,
    *,
    name: str,
    target: str,
    privacy: Privacy,
    model: ModelTerms,
    sites: Sequence[Site],
    drop: Sequence[str],
    domain: str = "table",
    tolerated: int | None = None,
    quorum: int | None = None,
    operator: str = "",
    epsilon_if_secagg_fails_at_most: float | None = None,
    aggregation: Aggregation = _AGGREGATION,
) -> Study:
    """Return a complete study whose schema is drafted from a public or dummy file.

    Args:
        table: the public or dummy file.
        name: the study's name.
        target: the column to predict.
        privacy: the promise and its constants.
        model: the model plugin and its options.
        sites: the roster, in a draft without keys.
        drop: columns to leave out; the unit's column is left out as well.
        domain: the domain plugin, which reads the file.
        tolerated: bad sites allowed for; None for the largest controller's or a third, in `local` one.
        quorum: sites each round needs; None for the least that the policy allows.
        operator: who runs the coordinator, where that is the controller of a site, too.
        epsilon_if_secagg_fails_at_most: refuse a study whose promise would fall further.
        aggregation: how the sites' vectors become one.

    Raises:
        ConfigError: the file or an argument does not give a valid study.
        PluginError: there is no such model or domain.
    """
    plugin = find("synthfed.models", model.plugin)
    columns = _draft_columns(table, domain, drop, privacy.unit)
    if tolerated is None:
        tolerated = 1 if privacy.mode == "local" else least_tolerated(sites, operator)
    if quorum is None:
        quorum = min(len(sites), least_quorum(len(sites), tolerated, privacy.mode))
    study = make_study(
        name=name,
        target=target,
        domain=domain,
        privacy=privacy,
        model=model,
        sites=sites,
        tolerated=tolerated,
        quorum=quorum,
        columns=columns,
        operator=operator,
        epsilon_if_secagg_fails_at_most=epsilon_if_secagg_fails_at_most,
        aggregation=aggregation,
    )
    if model.options:  # only the plugin knows what they may be, and importing one takes seconds
        plugin.make(study)
    return study


def with_enough_time(study: Study) -> Study:
    """Return the study with answer times that most machines keep, where its author gave none.

    Estimated from the size of the largest sum (three times what one core of the README's machine takes);
    `synthfed client check` measures what a site really needs.

    Raises:
        ConfigError: the promise cannot be met.
        PluginError: the model plugin does not accept its options.
    """
    needed_s = {"answer_time_s": study.privacy.answer_time_s, "statistic_time_s": study.privacy.statistic_time_s}
    for kind in pin(study).policy.plan.kinds:
        per_entry_s, field = _SECONDS_PER_ENTRY[kind.sum.family]
        estimate_s = kind.sum.dim * (kind.slots * per_entry_s + _SECONDS_PER_VALUE)
        needed_s[field] = min(600.0, max(needed_s[field], math.ceil(20 * estimate_s) / 20))
    missing = {field: value for field, value in needed_s.items() if field not in study.privacy.model_fields_set}
    return study.model_copy(update={"privacy": study.privacy.model_copy(update=missing)})


def _draft_columns(table: Path, domain: str, drop: Sequence[str], unit: str | None) -> Sequence[Column]:
    try:
        columns: Sequence[Column] = find("synthfed.domains", domain).make().draft(table, exclude={*drop, unit} - {None})
    except ConfigError as error:
        # A column that is left out appears in no error but the one that it is not there.
        if unit is not None and unit not in drop and repr(unit) in str(error):
            raise ConfigError(f"has no column {unit!r} to name the unit; check --unit", where=str(table)) from None
        raise
    return columns


def read_options(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return a model's options, each value given as TOML text."""
    options: dict[str, Any] = {}
    for name, text in texts.items():
        try:
            (options[name],) = tomllib.loads(f"value = {text}").values()
        except (ValueError, RecursionError):  # also more than one value
            raise ConfigError(
                f"the value of {name!r} must be one TOML value, text in quotes of its own: '{name}=\"text\"'",
                where="--option",
            ) from None
    return options


def make_roster(names: Sequence[str], files: Sequence[Path], controllers: Mapping[str, str]) -> list[Site]:
    """Return the roster's entries.

    Args:
        names: sites that have no key yet, which makes the study a draft.
        files: enrolment files of sites with their keys.
        controllers: who controls a site, by its name, where its enrolment does not say so.

    Raises:
        ConfigError: a file is no enrolment, a name is none, or a controller is that of no site.
    """
    entries = []
    for file in files:
        enrolment = parse(Enrolment, read_text(file), where=str(file))
        enrolment.verify(where=str(file))
        entries.append(enrolment.roster_entry)
    for name in names:
        try:
            entries.append(Site(id=name))
        except ValidationError as error:
            raise ConfigError(describe(error).removeprefix("id: "), where=f"--site {name}") from None
    for site, controller in controllers.items():
        known = next((entry for entry in entries if entry.id == site), None)
        if known is None or known.controller:
            why = "is no site of this study" if known is None else "names its controller in its enrolment"
            raise ConfigError(f"{site!r} {why}; leave it out", where="--controller")
        entries[entries.index(known)] = known.model_copy(update={"controller": controller})
    return entries


def make_study(
    *,
    name: str,
    target: str,
    domain: str,
    privacy: Privacy,
    model: ModelTerms,
    sites: Sequence[Site],
    tolerated: int,
    quorum: int,
    columns: Sequence[Column],
    operator: str = "",
    epsilon_if_secagg_fails_at_most: float | None = None,
    aggregation: Aggregation = _AGGREGATION,
) -> Study:
    """Return a validated study; ConfigError says which of the parts do not fit."""
    try:
        cohort = {
            "tolerated": tolerated,
            "quorum": quorum,
            "operator": operator,
            "epsilon_if_secagg_fails_at_most": epsilon_if_secagg_fails_at_most,
            "sites": tuple(sites),
        }
        return Study.model_validate(
            {
                "format": FORMAT,
                "name": name,
                "target": target,
                "domain": domain,
                "privacy": privacy,
                "model": model,
                "cohort": cohort,
                "aggregation": aggregation,
                "columns": tuple(columns),
            }
        )
    except ValidationError as error:
        raise ConfigError(describe(error), where="study") from None


def with_sites(study: Study, sites: Sequence[Site]) -> Study:
    """Return the study with another roster; tolerated and quorum stay where the new roster allows them."""
    mode = study.privacy.mode
    tolerated = min(study.cohort.tolerated, max(1, len(sites) - 2))
    least = least_quorum(len(sites), tolerated, mode)
    quorum = min(len(sites), max(least, min(study.cohort.quorum, len(sites))))
    return make_study(
        name=study.name,
        target=study.target,
        domain=study.domain,
        privacy=study.privacy,
        model=study.model,
        sites=sites,
        tolerated=tolerated,
        quorum=quorum,
        columns=study.columns,
        operator=study.cohort.operator,
        epsilon_if_secagg_fails_at_most=study.cohort.epsilon_if_secagg_fails_at_most,
        aggregation=study.aggregation,
    )


def render_study(study: Study) -> str:
    """Return the study as a commented TOML file that parses to the same study."""
    privacy, cohort = study.privacy, study.cohort
    lines = [
        _HEAD,
        *_pairs(format=study.format, name=study.name, target=study.target, domain=study.domain),
        "",
        "[privacy]",
        *_note("distributed: each site adds a share of the noise; local: each adds all of it", mode=privacy.mode),
        *_note("promised to one unit, all rounds together", epsilon=privacy.epsilon, delta=privacy.delta),
        *([] if privacy.unit is None else _note("the column that names a person or account", unit=privacy.unit)),
        *_note(
            "records one unit may have; one drawn at random stands for it", records_per_unit=privacy.records_per_unit
        ),
        *_note("sites that may hold records of one unit", sites_per_unit=privacy.sites_per_unit),
        *_note("a declared upper bound, never the true number", units_per_site=privacy.units_per_site),
        *_pairs(clip_norm=privacy.clip_norm, sample_rate=privacy.sample_rate, steps=privacy.steps),
        *([] if privacy.sigma_floor is None else _note(_FLOOR, sigma_floor=privacy.sigma_floor)),
        *_note("every answer leaves exactly this long after its charge", answer_time_s=privacy.answer_time_s),
        *_note("the same for statistics, rarer and larger", statistic_time_s=privacy.statistic_time_s),
        "",
        "[model]",
        *_pairs(plugin=study.model.plugin),
        "",
        "[model.options]",
        *_pairs(**study.model.options),
        "",
        "[cohort]",
        *_note(
            "sites that may be bad, and sites that every round needs", tolerated=cohort.tolerated, quorum=cohort.quorum
        ),
    ]
    lines += _note("who runs the coordinator; sites of the same controller count as bad", operator=cohort.operator)
    if cohort.epsilon_if_secagg_fails_at_most is not None:
        lines += _pairs(epsilon_if_secagg_fails_at_most=cohort.epsilon_if_secagg_fails_at_most)
    aggregation = study.aggregation
    lines += ["", "[aggregation]"]
    lines += _note("sum, under masks; in local also median or trimmed-mean, without", combine=aggregation.combine)
    if aggregation.clip_total is not None:
        lines += _note("largest norm of a released gradient sum, in clip norms", clip_total=aggregation.clip_total)
    lines += _note("hybrid, or in local x25519 alone", key_agreement=aggregation.key_agreement)
    lines += _note("aes256-ctr, or chacha20 where processors lack AES", mask_cipher=aggregation.mask_cipher)
    for site in cohort.sites:
        lines += ["", "[[cohort.sites]]", *_pairs(id=site.id, key=site.key, controller=site.controller)]
    for column in study.columns:
        lines += ["", "[[columns]]", *_column(column)]
    return "\n".join(lines) + "\n"


def _column(column: Column) -> list[str]:
    match column:
        case Categorical():
            return _pairs(name=column.name, kind=column.kind, values=list(column.values), missing=column.missing)
        case Integer():
            bounds = _pairs(lower=column.lower, upper=column.upper, scale=column.scale)
        case Real():
            bounds = _pairs(lower=column.lower, upper=column.upper, scale=column.scale, decimals=column.decimals)
    return [*_pairs(name=column.name, kind=column.kind), *bounds, *_pairs(missing=column.missing)]


def _pairs(**fields: object) -> list[str]:
    return [f"{_key(name)} = {_value(value)}" for name, value in fields.items()]


def _note(comment: str, **fields: object) -> list[str]:
    first, *rest = _pairs(**fields)
    return [f"{first}   # {comment}", *rest]


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: object) -> str:
    """Return a plain value in TOML: JSON's numbers, booleans and strings (but for U+007F) are TOML's, too."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_value(name)} = {_value(item)}" for name, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
