"""Whether a release is whole, is what was sealed, and does not promise more than its own figures allow.

Never needs a network, real rows or the plugins that trained, and never stops at the first thing that is wrong.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from synthfed.plugins.files import read_text
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.privacy.accountant import SampledGaussian, epsilon
from synthfed.protocols.release_seal import ReleaseSeal
from synthfed.protocols.study import Study, parse_study

from ..evidence import Evidence, SumEvidence
from ..release import ADVICE, Manifest, read_part
from .sealing import SEAL, hashes

_Result = TypeVar("_Result")
_ROUNDING: Final = 1e-9  # of figures that passed through JSON, relative
_MOST_STEPS: Final = 2**22  # of one sum; terms allow no study that needs them
_HOPELESS: Final = 1000.0
"""From which count * sample_rate**2 / (noise**2 + 1/4) on one sum costs more than any terms may promise.

Let the sum of all its releases be told apart at half their mean: it is above that without the unit with a probability
of at most exp(-x / 8), and with it of at least 1 - 4 / x (Chebyshev); so epsilon is above 124 at any delta of terms.
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what, whether it holds, and what was found."""

    name: str
    is_ok: bool
    told: str


def verify_release(folder: Path, coordinator: str = "") -> Iterator[Check]:
    """Yield what was checked of a release; a check that needs a file which cannot be read is left out.

    Args:
        folder: the release.
        coordinator: the fingerprint that its coordinator told by another way; empty if nobody asked.
    """
    seal, check = _attempt("seal", partial(_seal, folder, coordinator), _whose)
    yield check
    if seal is not None:
        _, check = _attempt("files", lambda: _files(folder, seal), lambda count: f"{count} files are as sealed")
        yield check
    study, check = _attempt("terms", partial(_study, folder, seal), _hash)
    yield check
    evidence, check = _attempt("evidence", lambda: _evidence(folder, study, seal), lambda _: "is of these terms")
    yield check
    yield _attempt("model", lambda: _model(folder, evidence), lambda _: "weights and plugin are those named")[1]
    if study is not None and evidence is not None:
        yield _attempt("promise", lambda: _promise(study, evidence), lambda found: found)[1]
        yield _attempt("sites", lambda: _sites(study, evidence), lambda count: f"{count} sites, keys as in the terms")[
            1
        ]
        yield _attempt("report", lambda: _report(folder, evidence), lambda _: "states the evidence")[1]


def _attempt(name: str, look: Callable[[], _Result], tell: Callable[[Any], str]) -> tuple[_Result | None, Check]:
    try:
        found = look()
    except ConfigError as error:
        return None, Check(name, False, str(error))
    return found, Check(name, True, tell(found))


def _seal(folder: Path, coordinator: str) -> ReleaseSeal:
    where = str(folder / SEAL)
    seal = ReleaseSeal.parse(read_part(folder / SEAL), where=where)
    if coordinator and seal.fingerprint != coordinator:
        raise ConfigError(f"is signed by {seal.fingerprint}, not by the coordinator {coordinator}", where=where)
    return seal


def _hash(study: Study) -> str:
    return f"hash {study.hash.hex()}"


def _whose(seal: ReleaseSeal) -> str:
    if seal.setting == "simulation":
        return "unbroken; of a simulation, which has no coordinator"
    return f"unbroken; coordinator {seal.fingerprint}   (compare by voice)"


def _files(folder: Path, seal: ReleaseSeal) -> int:
    found = {path: sha256.hex() for path, sha256 in hashes(folder).items()}
    wrong = [f"{path} is missing" for path in sorted(seal.files.keys() - found.keys())]
    wrong += [f"{path} was added" for path in sorted(found.keys() - seal.files.keys())]
    wrong += [f"{path} was changed" for path, sha256 in sorted(seal.files.items()) if found.get(path, sha256) != sha256]
    if wrong:
        raise ConfigError("; ".join(wrong), where=str(folder))
    return len(found)


def _study(folder: Path, seal: ReleaseSeal | None) -> Study:
    path = folder / "study.toml"
    study = parse_study(read_text(path, advice=ADVICE), where=str(path))
    if seal is not None and study.hash.hex() != seal.study:
        raise ConfigError("is another study than the seal names", where=str(path))
    return study


def _evidence(folder: Path, study: Study | None, seal: ReleaseSeal | None) -> Evidence:
    path = folder / "evidence.json"
    evidence = Evidence.from_json(read_part(path), where=str(path))
    if study is not None and evidence.study_hash != study.hash.hex():
        raise ConfigError("is of another study than study.toml", where=str(path))
    if seal is not None and evidence.setting != seal.setting:
        raise ConfigError(f"is of a {evidence.setting}, and the seal of a {seal.setting}", where=str(path))
    return evidence


def _model(folder: Path, evidence: Evidence | None) -> None:
    path = folder / "model" / "model.json"
    try:
        manifest = Manifest.model_validate_json(read_part(path))
    except ValidationError:
        raise ConfigError("is not the description of a model", where=str(path)) from None
    if hashlib.sha256(read_part(folder / "model" / "weights.safetensors")).hexdigest() != manifest.weights_sha256:
        raise ConfigError("names other weights than those beside it", where=str(path))
    if evidence is not None and manifest.plugin != evidence.plugin:
        raise ConfigError("names another plugin than evidence.json", where=str(path))


def _promise(study: Study, evidence: Evidence) -> str:
    """Account for the sums once more: what they cost must be within what is stated, and that within the terms.

    The coordinator accounts for a little less noise than the multipliers state, for rounding to the grid: its epsilon
    is never below the one computed here.
    """
    privacy, wrong = study.privacy, []
    same = (evidence.mode, evidence.delta, evidence.tolerated, evidence.quorum, evidence.sites_per_unit)
    if same != (privacy.mode, privacy.delta, study.cohort.tolerated, study.cohort.quorum, privacy.sites_per_unit):
        wrong.append("states another mode, delta, tolerated, quorum or sites_per_unit than the terms")
    beyond = [each.name for each in evidence.sums if _is_beyond(each)]
    wrong += [f"names more steps of {name!r} than any terms pay for" for name in beyond]
    if wrong:  # nothing is computed of figures that nobody has bounded: they could ask for all memory
        raise ConfigError("; ".join(wrong), where="evidence.json")
    events = [
        SampledGaussian(each.sample_rate, each.noise_multiplier, each.cap * each.steps, evidence.sites_per_unit)
        for each in evidence.sums
    ]
    cost = epsilon(events, evidence.delta)
    if cost > evidence.epsilon * (1 + _ROUNDING):
        wrong.append(f"states epsilon {evidence.epsilon:.4g}, but its sums cost {cost:.4g}")
    if evidence.epsilon > privacy.epsilon * (1 + _ROUNDING):
        wrong.append(f"states epsilon {evidence.epsilon:.4g}, more than the {privacy.epsilon:.4g} of the terms")
    wrong += [f"released sum {each.name!r} too often" for each in evidence.sums if each.rounds_released > each.cap]
    if wrong:
        raise ConfigError("; ".join(wrong), where="evidence.json")
    return f"epsilon {evidence.epsilon:.4g} of {privacy.epsilon:g}; its sums cost {cost:.4g} at delta {privacy.delta:g}"


def _is_beyond(stated: SumEvidence) -> bool:
    """Return whether a sum has too many steps to be accounted for, or obviously costs too much."""
    count = stated.cap * stated.steps
    return count > _MOST_STEPS or count * stated.sample_rate**2 > _HOPELESS * (stated.noise_multiplier**2 + 0.25)


def _sites(study: Study, evidence: Evidence) -> int:
    listed = {site.id: fingerprint(site.public_key) for site in study.cohort.sites}
    if {site.id: site.key_fingerprint for site in evidence.sites} != listed:
        raise ConfigError("names other sites or keys than the terms", where="evidence.json")
    over = [site.id for site in evidence.sites if site.epsilon_spent > evidence.epsilon * (1 + _ROUNDING)]
    if over:
        raise ConfigError(f"says that more was charged at {', '.join(over)} than was promised", where="evidence.json")
    return len(listed)


def _report(folder: Path, evidence: Evidence) -> None:
    path = folder / "report.json"
    try:
        document = json.loads(read_part(path))
    except ValueError:
        document = None
    if not isinstance(document, dict) or document.get("evidence") != evidence.model_dump(mode="json"):
        raise ConfigError("does not state what evidence.json states", where=str(path))
