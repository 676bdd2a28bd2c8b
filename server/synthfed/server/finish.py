"""From a trained run to its release: the evidence as the coordinator can give it, and the folder.

Never claims a charge that was not asked for, for each site's own ledger is the authority; never replaces
a release by another, and never leaves half a folder under the asked-for name.
"""

import datetime
import hashlib
import math
import os
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save

from synthfed.plugins.api import Domain, Trainer
from synthfed.plugins.files import sync, write_whole
from synthfed.plugins.pinning import Pinned
from synthfed.plugins.registry import Plugin
from synthfed.protocols.errors import ConfigError, LocalProtocolError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.privacy.plan import epsilon_by_sites
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.study import Study, parse_study
from synthfed.protocols.sums import own_noise

from .evidence import Evidence, PluginEvidence, Setting, SiteEvidence, SumEvidence
from .pictures import FOLDER, draw_pictures
from .release import Manifest, write_report
from .releases.sealing import seal_folder
from .report import report
from .sampling import draw
from .store import Run, Tally
from .training import spent

_DISTRIBUTIONS: Final = ("synthfed", "flwr", "torch", "opacus", "dp-accounting", "cryptography", "numpy")


def check_place(out: Path) -> None:
    """Refuse a taken place for a release before anything is spent on it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError("is taken; choose another --out", where=str(out))


def finish(
    run: Run,
    pinned: Pinned,
    trainer: Trainer,
    out: Path,
    rows: int,
    seed: int,
    key: Ed25519PrivateKey,
    setting: Setting = "federation",
) -> None:
    """Write the release of a run from its last checkpoint.

    Args:
        run: the run's folder.
        pinned: the study's policy and plugins.
        trainer: a trainer of the study's model; its state is replaced by the checkpoint's.
        out: where the release goes; must not exist or be empty.
        rows: how many synthetic rows the release carries.
        seed: fixes the rows.
        key: the coordinator's, which seals the release.
        setting: where the tables were.
    """
    checkpoint = run.load(pinned.policy.study)
    if checkpoint is None or not any(checkpoint[1].released.values()):
        raise ConfigError("holds no released sum yet, so there is nothing to publish", where=str(run.folder))
    state, tally = checkpoint
    trainer.load(state)
    write_release(
        out,
        study=pinned.policy.study,
        study_text=run.study_text(),
        trainer=trainer,
        conditions=pinned.model.conditions,
        domain=pinned.domain,
        evidence=gather(pinned, tally, setting),
        history=tally.history,
        rows=rows,
        seed=seed,
        key=key,
    )


def gather(pinned: Pinned, tally: Tally, setting: Setting = "federation") -> Evidence:
    """Return what was promised and what was asked for, by site and sum."""
    policy = pinned.policy
    study, plan = policy.study, policy.plan
    return Evidence(
        setting=setting,
        study=study.name,
        study_hash=study.hash.hex(),
        mode=study.privacy.mode,
        combine=study.aggregation.combine,
        key_agreement=study.aggregation.key_agreement,
        tolerated=study.cohort.tolerated,
        quorum=study.cohort.quorum,
        delta=study.privacy.delta,
        epsilon=plan.epsilon,
        epsilon_if_secagg_fails=_finite(plan.epsilon_if_secagg_fails),
        sites_per_unit=study.privacy.sites_per_unit,
        epsilon_by_bad_sites=tuple((bad, _finite(epsilon)) for bad, epsilon in plan.curve),
        epsilon_by_sites_of_unit=tuple((held, _finite(epsilon)) for held, epsilon in epsilon_by_sites(study, plan)),
        clip_norm=study.privacy.clip_norm,
        sigma_floor=study.privacy.sigma_floor,
        sums=_sums(policy, tally),
        sites=_sites(policy, tally),
        plugin=_pinned(pinned.plugin),
        domain=_pinned(pinned.reader),
        versions={name: metadata.version(name) for name in _DISTRIBUTIONS},
        started=tally.started,
        ended=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seed_note="The seed fixes initial weights and the coordinator's draws; privacy noise and sampling came "
        "from each site's operating system.",
    )


def _sums(policy: Policy, tally: Tally) -> tuple[SumEvidence, ...]:
    return tuple(
        SumEvidence(
            name=kind.sum.name,
            family=kind.sum.family,
            dim=kind.sum.dim,
            noise_multiplier=kind.noise_multiplier,
            own_noise=own_noise(policy.study, kind),
            sample_rate=kind.sum.sample_rate,
            clip_norm=kind.sum.clip_norm,
            cap=kind.sum.rounds,
            rounds_released=tally.released[kind.sum.name],
            steps=kind.sum.steps,
        )
        for kind in policy.plan.kinds
    )


def _sites(policy: Policy, tally: Tally) -> tuple[SiteEvidence, ...]:
    charged = {site.id: tally.charged.get(site.id, Counter()) for site in policy.study.cohort.sites}
    return tuple(
        SiteEvidence(
            id=site.id,
            controller=site.controller,
            key_fingerprint=fingerprint(site.public_key),
            epsilon_spent=spent(policy, charged[site.id]),
            delta=policy.study.privacy.delta,
            rounds=sum(charged[site.id].values()),
        )
        for site in policy.study.cohort.sites
    )


def _pinned(plugin: Plugin) -> PluginEvidence:
    return PluginEvidence(
        name=plugin.name, distribution=plugin.distribution, version=plugin.version, hash=plugin.hash.hex()
    )


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def write_release(
    folder: Path,
    *,
    study: Study,
    study_text: str,
    trainer: Trainer,
    conditions: Collection[str],
    domain: Domain,
    evidence: Evidence,
    history: Sequence[Mapping[str, float]],
    rows: int,
    seed: int,
    key: Ed25519PrivateKey,
) -> None:
    """Write a release folder, sealed, all or nothing.

    Args:
        folder: where to; must not exist, or be an empty folder.
        study: the signed terms.
        study_text: the file they were read from, kept as it is.
        trainer: the trained model.
        conditions: the columns whose values it can fix.
        domain: writes the synthetic records and draws them.
        evidence: what was promised and spent.
        history: public numbers of the training, each with its ``step``.
        rows: how many synthetic rows to publish.
        seed: public seed of the sampling.
        key: the coordinator's, which seals the release.

    Raises:
        ConfigError: the folder is in use or cannot be written, or rows or seed is out of range.
        LocalProtocolError: study, text and evidence are not of one study.
    """
    if not evidence.study_hash == study.hash.hex() == parse_study(study_text, where="study.toml").hash.hex():
        raise LocalProtocolError("the study, its text and the evidence of a release disagree; report this")
    check_place(folder)
    weights = save({name: np.asarray(array, order="C") for name, array in trainer.state().items()})
    digest = hashlib.sha256(weights).hexdigest()
    manifest = Manifest(plugin=evidence.plugin, rows=rows, seed=seed, weights_sha256=digest)
    released = study.released
    first = next(draw(trainer, released.columns, rows, seed))
    document = report(study=study, evidence=evidence, synthetic=first, rows=rows, seed=seed, history=history)
    pictures = draw_pictures(released, domain, conditions, trainer, first, document["history"], seed)
    document["pictures"] = [{"name": each.name, "title": each.title, "alt": each.alt} for each in pictures]
    with _new_folder(folder) as part:
        for name in ("model", *([FOLDER] if pictures else [])):
            (part / name).mkdir()
        for name, content in {
            **{f"{FOLDER}/{each.name}.png": [each.png] for each in pictures},
            "model/weights.safetensors": [weights],
            "model/model.json": [manifest.model_dump_json(indent=2).encode() + b"\n"],
            "study.toml": [study_text.encode()],
            "evidence.json": [evidence.to_json().encode()],
        }.items():
            write_whole(part / name, content)
        domain.write(part / f"synthetic{domain.suffix}", released.columns, draw(trainer, released.columns, rows, seed))
        write_report(part, document)
        seal_folder(part, key, study=study.hash, setting=evidence.setting)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Give a sibling folder to write into; when all went well, put it under its name."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        check_place(folder)
        part.replace(folder)
        sync(folder.parent)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}; choose another --out", where=str(folder)) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
