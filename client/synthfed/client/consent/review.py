"""What a study would do at this site, in plain language, for a person who has to answer for it.

Never lets a word from outside steer the terminal, and never reads a record.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synthfed.protocols.approval import NEVER, Decision, Standing
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.proposal import Proposal
from synthfed.protocols.schema import ArrayColumn, Categorical, Column
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Kind, own_noise

from ..config import SiteConfig
from ..limits import Standing as Limited
from .standing import Rule
from .words import day, plain

if TYPE_CHECKING:
    from synthfed.plugins.pinning import Pinned

_SHOWN_VALUES = 8
_LIMITS = {"ceiling.epsilon": "ceiling", "policy.epsilon_per_year": "one year", "policy.epsilon_per_study": "one study"}


@dataclass(frozen=True, slots=True)
class Reviewed:
    """All that a review tells.

    Attributes:
        config: the site's settings.
        pinned: the study with its plan and plugins.
        proposal: the coordinator's signature, if the terms came under one.
        limits: of the site, and how near to each the ledger is; the ceiling first.
        rule: who must approve.
        standing: what was decided so far.
        objection: why that is too little, empty where it is enough.
        decisions: those over these terms.
    """

    config: SiteConfig
    pinned: "Pinned"
    proposal: Proposal | None
    limits: tuple[Limited, ...]
    rule: Rule
    standing: Standing
    objection: str
    decisions: tuple[Decision, ...]


def pages(it: Reviewed) -> Iterator[tuple[str, list[str]]]:
    """Yield headings and the lines below them, every one fit for a terminal."""
    study = it.pinned.policy.study
    for heading, lines in (
        ("What is asked", _asked(it, study)),
        ("What is read", _read(study)),
        ("What it costs in privacy", _costs(it, study)),
        ("What leaves this site", _leaves(it, study)),
        ("If secure aggregation fails", _fails(it, study)),
        ("Who takes part", _parties(study)),
        ("Whose code runs on the records", _code(it)),
        ("What was decided here", _decided(it)),
    ):
        yield heading, [plain(line) for line in lines]


def _asked(it: Reviewed, study: Study) -> Iterator[str]:
    yield f"Study {study.name!r} asks to train the model {study.model.plugin!r} on this site's records together with"
    yield f"{len(study.cohort.sites) - 1} other site(s), and to publish made-up rows that resemble them all."
    # Runs of blanks could make the rest of it look like a line of this review.
    purpose = " ".join((study.purpose or "").split())
    yield f"purpose       {purpose or 'not stated: ask the coordinator what the made-up rows are for'}"
    yield f"terms         {study.hash.hex()}"
    if it.proposal is None:
        yield "proposed by   an unsigned study file: compare the terms' number with the coordinator by voice"
    else:
        known = "the key that site.toml names" if it.config.coordinator.key else "compare by voice"
        yield f"proposed by   the coordinator with key {it.proposal.fingerprint}   ({known}); the signature holds"
        if it.config.coordinator.key is None:
            yield f'  To take proposals from it alone: key = "{it.proposal.coordinator}" in [coordinator] of site.toml.'


def _read(study: Study) -> Iterator[str]:
    yield f"Of each record only these {len(study.columns)} column(s) are read:"
    for column in study.columns:
        yield f"  {column.name}: {_column(column)}" + ("   (to be predicted)" if column.name == study.target else "")
    unit = study.privacy.unit
    if unit is None:
        yield "Each record counts as a person of its own: the promise below is to one record."
    else:
        yield f"Column {unit!r} tells whose a record is; it is not learned. The promise below is to one {unit!r}."
        yield f"One may have at most {study.privacy.records_per_unit} record(s); one drawn at random stands for it."
    for each in study.constraints:
        yield f"declared to hold in every made-up row: {json.dumps(each.model_dump(exclude_none=True))}"
    if study.site_column is not None:
        yield f"Made-up rows tell this site by its name, in column {study.site_column!r}: its size and rates show."


def _column(column: Column) -> str:
    missing = ", may be missing" if column.missing else ""
    if isinstance(column, Categorical):
        shown = ", ".join(column.values[:_SHOWN_VALUES])
        more = f", ... ({len(column.values)} in all)" if len(column.values) > _SHOWN_VALUES else ""
        return f"one of {shown}{more}{missing}"
    if isinstance(column, ArrayColumn):
        shape = " x ".join(map(str, column.shape))
        return f"{shape} numbers from {column.lower:g} to {column.upper:g}{missing}"
    what = "a whole number" if column.kind == "integer" else "a number"
    return f"{what} from {column.lower:g} to {column.upper:g}{missing}"


def _costs(it: Reviewed, study: Study) -> Iterator[str]:
    privacy, plan = study.privacy, it.pinned.policy.plan
    unit = "one record" if privacy.unit is None else f"one {privacy.unit!r}"
    yield f"promise       epsilon {plan.epsilon:.3g} (terms: {privacy.epsilon:g}), delta {privacy.delta:g}, to {unit}"
    yield f"  epsilon: whatever is published or sent, nobody's odds of being right about {unit} change by"
    yield f"  more than {_factor(plan.epsilon)} through its records being here; 0 would be no trace at all."
    yield f"  delta: the chance of {privacy.delta:g} with which that may fail; it must be far below one in all persons."
    if privacy.sites_per_unit > 1:
        yield f"  The promise holds for a person with records at up to {privacy.sites_per_unit} sites."
    yield f"this site     epsilon at delta {it.config.ceiling.delta:g}, whatever study it was for:"
    for each in it.limits:
        yield from _limited(each)
    yield "  spent: what studies in this home have cost; reserved: what other approved ones may still cost."
    yield "  This study's part is reserved with its approval; a withdrawal or `synthfed client release` gives it back."
    yield f"mode          {privacy.mode}: " + (
        "each site adds a share of the noise; the promise rests on the masks and on enough honest sites"
        if privacy.mode == "distributed"
        else "each site adds all of the noise itself, and trusts nobody for the promise"
    )


def _limited(at: Limited) -> Iterator[str]:
    """Yield what a limit has come to, and would come to after the study."""
    name, most = _LIMITS[at.limit.rule], at.limit.epsilon
    reserved = f", {at.taken:.3g} with what is reserved" if at.taken > at.spent else ""
    yield f"  {name:<9} {at.spent:.3g} spent so far{reserved}, {at.after_study:.3g} after the study, of {most:g}"
    if not at.is_ok:
        yield f"  This study does NOT fit under the limit {at.limit.rule}: it cannot be approved."


def _leaves(it: Reviewed, study: Study) -> Iterator[str]:
    kinds = it.pinned.policy.plan.kinds
    yield "No record leaves. What leaves are sums over many records, each record's part limited in length, with noise"
    yield "added" + (
        " and masked, so that the coordinator reads only the total of all sites:"
        if it.pinned.policy.is_masked
        else "; this study does not mask them, so the coordinator reads this site's own noisy sums:"
    )
    for kind in kinds:
        yield f"  {_sum(kind)}"
    sent = sum(kind.sum.rounds * kind.answer_bytes for kind in kinds) / 1e6
    yield f"In all at most {sum(kind.sum.rounds for kind in kinds)} rounds and {sent:.3g} MB."
    least = min(own_noise(study, kind) for kind in kinds)
    yield f"Noise of this site alone is at least {least:.3g} times the most that one record can add to a sum."


def _sum(kind: Kind) -> str:
    each = kind.sum
    what = "statistics" if each.family == "statistic" else "training steps of a network"
    steps = f", {each.steps} step(s) in each" if each.steps > 1 else ""
    return (
        f"{each.name}: {what}, {each.dim:,} numbers, at most {each.rounds} round(s){steps}, "
        f"each person taking part with chance {each.sample_rate:g}"
    )


def _fails(it: Reviewed, study: Study) -> Iterator[str]:
    worst = it.pinned.policy.plan.epsilon_if_secagg_fails
    usual = it.pinned.policy.plan.epsilon
    yield f"epsilon {worst:.3g} instead of {usual:.3g}: so it would be if every other site worked with the coordinator."
    yield f"Odds could then change by {_factor(worst)}."
    if study.privacy.mode == "local":
        yield "That is the same number: in this mode nothing of the promise rests on others."
    else:
        yield f"The promise itself allows for {study.cohort.tolerated} such site(s) among those of a round."


def _parties(study: Study) -> Iterator[str]:
    cohort = study.cohort
    yield f"{len(cohort.sites)} sites, of which every round needs {cohort.quorum}; their keys, to compare site to site:"
    for site in sorted(cohort.sites, key=lambda each: each.id):
        yield f"  {site.id}   {fingerprint(site.public_key)}   run by {site.controller or 'nobody that is named'}"
    yield f"coordinator   run by {cohort.operator or 'nobody that is named in the terms'}"


def _code(it: Reviewed) -> Iterator[str]:
    yield "An approval is of exactly this code; another version, or one changed byte of it, needs a new one."
    for each in it.rule.subject.plugins:
        yield f"  {each.kind} {each.name!r} of {each.distribution} {each.version}"
        yield f"    hash {each.hash}"
    options = it.pinned.policy.study.model.options
    yield f"  options of the model: {json.dumps(options) if options else 'none'}"
    yield f"  everything together (terms, sums, noise, code): {it.rule.subject.policy}"


def _decided(it: Reviewed) -> Iterator[str]:
    for each in sorted(it.decisions, key=lambda each: (each.at_unix_s, each.signature)):
        reason = f": {each.reason}" if each.reason else ""
        yield f"  {day(each.at_unix_s)}   {each.decision} by {it.rule.who(each.steward)}{reason}"
    if it.standing.blocked_unix_s > NEVER:
        since = day(it.standing.blocked_unix_s)
        yield f"  Only approvals after {since} count: then it was last rejected, withdrawn or released."
    if it.objection:
        yield f"  NOT APPROVED: {it.objection}"
    else:
        yield f"  Approved: {len(it.standing.approvals)} of {it.standing.needed} needed."


def _factor(epsilon: float) -> str:
    return f"a factor of {math.exp(epsilon):,.3g}" if epsilon < 50 else "a factor without practical bound"
