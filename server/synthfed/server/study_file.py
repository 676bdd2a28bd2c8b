"""Writes any study as a commented TOML file.

Never leaves out a term: what is written parses to the same study.
"""

import json
import re
from typing import Final

from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Integer, Real
from synthfed.protocols.study import Study

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_FLOOR: Final = "least noise of one site alone, in clip norms"
_BY_SITE: Final = "no column of any file: each site's records get its id, and synthetic rows tell sites apart"
_HEAD: Final = """\
# The terms of a study: every site agrees to this file, byte by byte, before a record is read.
# Bounds and categories were agreed from public knowledge. NEVER take them from private records:
# a minimum, a maximum or a rare category of a real table can give a person away.
"""


def render_study(study: Study) -> str:
    """Return the study as a commented TOML file that parses to the same study."""
    privacy, cohort = study.privacy, study.cohort
    lines = [
        _HEAD,
        *_pairs(format=study.format, name=study.name, target=study.target, domain=study.domain),
        *([] if study.site_column is None else _note(_BY_SITE, site_column=study.site_column)),
        *([] if study.purpose is None else _pairs(purpose=study.purpose)),
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
        *_note(
            "DP-SGD's constants, used where the model trains a network by private steps",
            clip_norm=privacy.clip_norm,
            sample_rate=privacy.sample_rate,
            steps=privacy.steps,
        ),
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
    for each in study.constraints:
        lines += ["", "[[constraints]]", *_pairs(**each.model_dump(exclude_none=True))]
    return "\n".join(lines) + "\n"


def _column(column: Column) -> list[str]:
    match column:
        case Categorical():
            return _pairs(name=column.name, kind=column.kind, values=list(column.values), missing=column.missing)
        case Integer():
            bounds = _pairs(lower=column.lower, upper=column.upper, scale=column.scale)
        case Real():
            bounds = _pairs(lower=column.lower, upper=column.upper, scale=column.scale, decimals=column.decimals)
        case ArrayColumn():
            bounds = _pairs(shape=column.shape, lower=column.lower, upper=column.upper, decimals=column.decimals)
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
