"""The report of a release: what it is, what was promised, what was measured, as data and as one page.

Never calls data anonymous or a study compliant: it lays out evidence, and says what was not measured.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jinja2 import Environment, StrictUndefined

from synthfed.plugins.audits.estimate import Estimate
from synthfed.plugins.audits.fidelity import BINS, count_bins, place
from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Real, Records, Scalar, places, width_of
from synthfed.protocols.study import Study

from .evidence import Evidence
from .refinement import refinement

FORMAT: Final = 1
MUCH_EPSILON: Final = 8.0
"""Above it a single person's bound on the odds exceeds a factor of 2900 and says little by itself."""

_MAX_POINTS = 400  # of a training curve
_MAX_BARS = 12  # of a categorical column's plot
_MAX_ARRAYS = 1000  # whose numbers are counted
_GUESSING: Final = {"auc": 0.5, "r2": 0.0}  # scores of a model that knows nothing
_TEMPLATE = Path(__file__).with_name("report.html.j2")

Document = dict[str, Any]
"""A report as plain JSON values, format 1.

Keys: ``format``; ``study`` (terms a reader needs; ``site_column`` only if there is one); ``rows`` and
``seed`` of the published table; ``privacy`` (the promise and what it means); ``evidence`` (`Evidence` as
JSON); ``distributions`` (per column: labels and shares of the synthetic rows); ``history`` (per curve:
steps and values); ``refinement`` (what it added, or that there was none, in words; empty where nothing was
compared; older reports lack it);
``pictures`` (per file in the folder of that name: its name, title and what it shows in words);
``audits`` (None, or the findings, each estimate with interval, baseline and control); ``warnings``.
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one audit found: its name, its question, and its numbers or why it has none."""

    audit: str
    question: str
    estimates: tuple[Estimate, ...]
    unfit: str = ""


def report(
    *,
    study: Study,
    evidence: Evidence,
    synthetic: Records,
    rows: int,
    seed: int,
    history: Sequence[Mapping[str, float]],
) -> Document:
    """Return the report of a release that nobody has audited against real rows yet.

    Args:
        study: the signed terms.
        evidence: what was promised and spent.
        synthetic: synthetic rows to draw the distributions from, all of them or the first ones.
        rows: how many rows are published.
        seed: the public seed they were sampled with.
        history: public numbers of the training, each with its ``step``.
    """
    columns = study.released.columns
    document: Document = {
        "format": FORMAT,
        "study": _terms(study),
        "rows": rows,
        "seed": seed,
        "privacy": _promise(study, evidence),
        "evidence": evidence.model_dump(mode="json"),
        "distributions": [
            _distribution(column, synthetic[:, first : first + width_of(column)])
            for column, first in zip(columns, places(columns), strict=False)
        ],
        "history": _curves(history),
        "refinement": refinement(history, [each.family for each in evidence.sums]),
        "audits": None,
    }
    return document | {"warnings": warn(document)}


def with_audits(document: Document, findings: Sequence[Finding], *, train: int, holdout: int, seed: int) -> Document:
    """Return the report with findings that were made on real rows, and the warnings that follow.

    Args:
        document: what ``report`` returned.
        findings: what each audit found.
        train: how many real rows the audits took for trained on.
        holdout: how many real rows the audits took for never seen.
        seed: of the audits' own draws.
    """
    audits = {
        "train_rows": train,
        "holdout_rows": holdout,
        "seed": seed,
        "findings": [asdict(finding) | {"estimates": [asdict(e) for e in finding.estimates]} for finding in findings],
    }
    audited = document | {"audits": audits}
    return audited | {"warnings": warn(audited)}


def render(document: Document, pictures: Mapping[str, bytes] | None = None) -> str:
    """Return the report as one HTML page that needs no network and no other file.

    Args:
        document: the report.
        pictures: the PNG of each picture that it names.
    """
    drawn = {name: base64.b64encode(png).decode() for name, png in (pictures or {}).items()}
    # Not the curves: the page draws them itself.
    named = [each for each in document.get("pictures", []) if each["name"] in drawn and each["name"] != "curves"]
    # S701 asks for autoescape: names of columns and categories may be hostile text.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "strip": strip, "polyline": polyline}
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    estimates = _estimates(document)
    evidence = document["evidence"]
    curves = {
        "that work with the coordinator": dict(evidence["epsilon_by_bad_sites"]),
        "that hold one unit's records": dict(evidence["epsilon_by_sites_of_unit"]),
    }
    return page.render(
        r={"refinement": "", **document},
        pictures=[each | {"png": drawn[each["name"]]} for each in named],
        curves=list(curves.items()),
        curve_sites=sorted({sites for curve in curves.values() for sites in curve}),
        whole=[each for each in estimates if not each["column"]],
        by_column=sorted((each for each in estimates if each["column"]), key=lambda each: -each["value"]),
        named={each["name"]: each for each in estimates if not each["column"]},
    )


def warn(document: Document) -> list[str]:
    """Return what a reader must know before using the numbers, as sentences."""
    privacy, evidence = document["privacy"], document["evidence"]
    said = []
    if evidence["setting"] == "simulation":
        said.append(
            "This is a simulation: all tables were in one place, so whoever ran it could read every record. "
            "The promise covers these rows only: each simulation spends its own budget, outside any site's ledger."
        )
    if privacy["epsilon"] > MUCH_EPSILON:
        said.append(
            f"Epsilon is {number(privacy['epsilon'])}, above {number(MUCH_EPSILON)}: the proven bound alone is weak. "
            "Rely on it only together with audits that attack the release."
        )
    if privacy["delta"] * privacy["units_per_site"] > 1:
        said.append("Delta is larger than one over the units of a site: a rare failure could expose somebody.")
    if privacy["mode"] == "local":
        said.append(
            "The mode is local: every site added the whole noise by itself. The promise does not rest on secure "
            "aggregation, but the noise is larger than one pooled table would have needed."
        )
    said += [
        f"Site {site['id']} was charged epsilon {number(site['epsilon_spent'])}, more than was promised."
        for site in evidence["sites"]
        if site["epsilon_spent"] > privacy["epsilon"] * (1 + 1e-9)
    ]
    if (column := document["study"].get("site_column")) is not None:
        said.append(
            f"Column {column!r} tells rows by site on purpose: each site's size, rates and gaps can be read from them. "
            "A person is protected as promised, what is typical of a site is not."
        )
        said += [
            f"Rows of site {site['id']} tell nothing of it: it took part in no round."
            for site in evidence["sites"]
            if not site["rounds"]
        ]
    said += [
        f"Only {each['rounds_released']} of {each['cap']} rounds of the sum {each['name']!r} were released"
        + (": the model was trained without it." if not each["rounds_released"] else ".")
        for each in evidence["sums"]
        if each["rounds_released"] < each["cap"]
    ]
    if document["audits"] is None:
        return [*said, "Fidelity and utility were not measured: that takes real rows, and the coordinator has none."]
    return said + [sentence for each in _estimates(document) for sentence in _doubts(each)]


def _doubts(estimate: Mapping[str, Any]) -> list[str]:
    doubts = [f"{estimate['name']}: {estimate['warning']}."] if estimate["warning"] else []
    if estimate["name"] == "tvd2" and estimate["high"] >= estimate["baseline"]:
        doubts.append(
            "Pairs of columns are not shown to be closer to real rows than independent columns would be: "
            "do not use these rows to study how columns depend on each other."
        )
    if estimate["name"] in _GUESSING and estimate["low"] <= max(estimate["baseline"], _GUESSING[estimate["name"]]):
        doubts.append("A model trained on these rows is not shown to predict the target better than chance.")
    if estimate["name"] == "accuracy" and estimate["low"] <= estimate["baseline"]:
        doubts.append("A classifier trained on these rows is not shown to recognise more than class means teach.")
    if estimate["name"] == "coverage" and estimate["low"] <= estimate["baseline"]:
        doubts.append("These rows are not shown to reach more kinds of real rows than a trivial model would.")
    return doubts


def _estimates(document: Document) -> list[dict[str, Any]]:
    findings = document["audits"]["findings"] if document["audits"] else []
    return [each for finding in findings for each in finding["estimates"]]


def _terms(study: Study) -> Document:
    columns = [{"name": column.name, "kind": column.kind} for column in study.released.columns]
    terms = {"name": study.name, "hash": study.hash.hex(), "target": study.target, "columns": columns}
    return terms if study.site_column is None else terms | {"site_column": study.site_column}


def _promise(study: Study, evidence: Evidence) -> Document:
    return {
        "mode": evidence.mode,
        "unit": study.privacy.unit,
        "units_per_site": study.privacy.units_per_site,
        "delta": evidence.delta,
        "epsilon": evidence.epsilon,
        **_meaning(evidence.epsilon, evidence.delta),
        "if_secagg_fails": None
        if evidence.epsilon_if_secagg_fails is None
        else {
            "epsilon": evidence.epsilon_if_secagg_fails,
            **_meaning(evidence.epsilon_if_secagg_fails, evidence.delta),
        },
    }


def _meaning(epsilon: float, delta: float) -> dict[str, float | None]:
    """Return the factor on the odds, exp(epsilon), and the best chance of a right guess from even odds.

    The guess is right with probability at most (exp(epsilon) + delta) / (exp(epsilon) + 1), the
    largest accuracy within the trade-off of an (epsilon, delta) promise (Kairouz et al. 2015,
    The Composition Theorem for Differential Privacy, theorem 2.1).
    """
    if epsilon > 700:  # exp would overflow, and nothing is promised any more
        return {"odds_factor": None, "right_guess": 1.0}
    factor = math.exp(epsilon)
    return {"odds_factor": factor, "right_guess": min(1.0, (factor + delta) / (factor + 1))}


def _distribution(column: Column, values: Records) -> Document:
    """Return labels and shares of a column's bins, of all numbers of an array together; the last label is missing."""
    if isinstance(column, ArrayColumn):
        bounds = Real(name=column.name, lower=column.lower, upper=column.upper, decimals=column.decimals)
        shape = " by ".join(map(str, column.shape))
        return _shares(bounds, values[:_MAX_ARRAYS].ravel()) | {"kind": f"array, {shape}"}
    return _shares(column, values[:, 0])


def _shares(column: Scalar, values: Records) -> Document:
    counts = np.bincount(place(column, values), minlength=count_bins(column))
    shares = (counts / max(1, len(values))).tolist()
    if isinstance(column, Categorical):
        *pairs, missing = zip([*column.values, "missing"], shares, strict=True)
        pairs.sort(key=lambda pair: -pair[1])
        rest = sum(share for _, share in pairs[_MAX_BARS:])
        shown = [
            *pairs[:_MAX_BARS],
            *([(f"{len(pairs) - _MAX_BARS} more", rest)] if pairs[_MAX_BARS:] else []),
            missing,
        ]
        labels, shares = [label for label, _ in shown], [share for _, share in shown]
    else:
        labels = [number(column.lower), *(f"bin {i + 1} of {BINS}" for i in range(BINS)), "missing"]
    bounds = None if isinstance(column, Categorical) else [column.lower, column.upper]
    scale = None if isinstance(column, Categorical) else column.scale
    return {
        "column": column.name,
        "kind": column.kind,
        "bounds": bounds,
        "scale": scale,
        "labels": labels,
        "shares": shares,
    }


def _curves(history: Sequence[Mapping[str, float]]) -> list[Document]:
    """Return each named number's finite values over the steps, thinned evenly; their first and last are kept."""
    names = dict.fromkeys(name for point in history for name in point if name != "step")
    curves = []
    for name in names:
        points = [(float(p["step"]), float(p[name])) for p in history if name in p and math.isfinite(p[name])]
        chosen = np.unique(np.linspace(0, len(points) - 1, min(len(points), _MAX_POINTS)).astype(int))
        kept = [points[i] for i in chosen]
        curves.append({"name": name, "steps": [step for step, _ in kept], "values": [value for _, value in kept]})
    return curves


def number(value: float | None) -> str:
    """Return a number to be read: three significant digits, thousands kept whole.

    >>> number(0.123456), number(12345.6), number(1e-05), number(2980.957), number(None)
    ('0.123', '12,346', '1e-05', '2,981', 'without bound')
    """
    if value is None:
        return "without bound"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def strip(estimate: Mapping[str, Any], width: float) -> dict[str, float]:
    """Return where an estimate's numbers lie on a strip of that width, from min(0, all) to max(1, all)."""
    keys = ("value", "low", "high", "baseline", "control")
    least, most = min(0.0, *(estimate[key] for key in keys)), max(1.0, *(estimate[key] for key in keys))
    return {key: round((estimate[key] - least) / (most - least) * width, 1) for key in keys}


def polyline(curve: Mapping[str, Any], width: float, height: float) -> str:
    """Return a curve as an SVG point list that fills a box, its smallest value at the bottom."""
    x, y = np.array(curve["steps"]), np.array(curve["values"])
    across = (x - x.min()) / (np.ptp(x) or 1.0) * width
    down = height - (y - y.min()) / (np.ptp(y) or 1.0) * height
    return " ".join(f"{left:.1f},{top:.1f}" for left, top in zip(across, down, strict=True))
