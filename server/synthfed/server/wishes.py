"""What the author of a study may ask for: every flag of `study new`, with its kind, default and explanation.

Never says what is allowed: the terms of a study do, field by field of the same names.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from synthfed.protocols.errors import ConfigError

_FLAGS: Final = {"source": "from", "plugin": "model", "options": "option"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The wishes for a draft; None leaves a choice to the rules of the terms."""

    source: Annotated[Path, "A PUBLIC or DUMMY file or folder; never a private one."]
    target: Annotated[str, "The column that the data should help to predict."]
    epsilon: Annotated[float, "Promised to one privacy unit, all rounds together."]
    out: Annotated[Path, "The study file to write."]
    site: Annotated[list[str] | None, "A site's name; repeat."] = None
    enrolment: Annotated[list[Path] | None, "A site's enrolment file; repeat."] = None
    mode: Annotated[str, "`distributed` or `local`."] = "distributed"
    delta: Annotated[float, "Failure probability of the promise."] = 1e-5
    unit: Annotated[str | None, "The column that names a person or account."] = None
    records_per_unit: Annotated[int, "Records one unit may have."] = 1
    sites_per_unit: Annotated[int, "Sites that may hold records of one unit."] = 1
    units_per_site: Annotated[int, "Declared upper bound on a site's units."] = 100_000
    sample_rate: Annotated[float, "Chance of a unit to take part in a step."] = 0.1
    steps: Annotated[int, "A network's private steps; a table GAN takes them only with --option refine=true."] = 300
    clip_norm: Annotated[float, "L2 bound of one unit's gradient."] = 1.0
    sigma_floor: Annotated[float | None, "Refuse a study in which one site alone adds less noise, in clip norms."] = (
        None
    )
    answer_time_s: Annotated[
        float | None, "Fixed seconds after which a site answers; estimated, `client check` measures it."
    ] = None
    statistic_time_s: Annotated[float | None, "The same for statistics, rarer and larger."] = None
    site_column: Annotated[
        str | None, "Publish rows by site: the name of a column with each row's site, which no file has."
    ] = None
    purpose: Annotated[str | None, "What the synthetic data are for, in one line; every site's stewards read it."] = (
        None
    )
    domain: Annotated[str, "Domain plugin, which reads the table."] = "table"
    model: Annotated[str, "Model plugin."] = "tabular-gan"
    option: Annotated[list[str] | None, "NAME=VALUE, an option of the model, the value as in TOML; repeat."] = None
    tolerated: Annotated[int | None, "Bad sites allowed for; by default the largest controller's, or a third."] = None
    quorum: Annotated[int | None, "Sites each step needs; by default the least allowed."] = None
    controller: Annotated[
        list[str] | None, "SITE=NAME, who controls a site if its enrolment does not say so; repeat."
    ] = None
    operator: Annotated[str, "Who runs the coordinator, if a site has the same controller."] = ""
    epsilon_if_secagg_fails_at_most: Annotated[
        float | None, "Refuse a study that would promise less if secure aggregation failed."
    ] = None
    combine: Annotated[str, "`sum`, or in `local` `median` or `trimmed-mean`, against sites that lie."] = "sum"
    clip_total: Annotated[float | None, "Largest norm of a released gradient sum, in clip norms."] = None
    key_agreement: Annotated[str, "`hybrid` (X25519 with ML-KEM-768), or in `local` `x25519` alone."] = "hybrid"
    mask_cipher: Annotated[str, "`aes256-ctr`, or `chacha20` without AES hardware."] = "aes256-ctr"
    name: Annotated[str | None, "The study's name; the file's by default."] = None
    drop: Annotated[list[str] | None, "A column to leave out; repeat."] = None


def flag_of(name: str) -> str:
    """Return the flag of a wish, or of the term of that name.

    >>> flag_of("source"), flag_of("answer_time_s"), flag_of("plugin")
    ('--from', '--answer-time', '--model')
    """
    return "--" + _FLAGS.get(name, name).removesuffix("_s").replace("_", "-")


def pairs(texts: Iterable[str], form: str, *, where: str) -> dict[str, str]:
    """Return what stands before and after the first `=` of every text.

    Raises:
        ConfigError: a text has no `=`, or a name stands twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value or name in found:
            raise ConfigError(f"{text!r} must be {form}, each name once", where=where)
        found[name] = value
    return found
