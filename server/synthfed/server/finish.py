"""From a trained run to its release: the evidence as the coordinator can give it, and the folder.

Never claims a charge that was not asked for: each site's own ledger is the authority.
"""

import datetime
import math
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Final

from synthfed.plugins.api import Trainer
from synthfed.plugins.pinning import Pinned
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import fingerprint

from .evidence import Evidence, PluginEvidence, Setting, SiteEvidence, SumEvidence
from .release import write_release
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
        evidence=gather(pinned, tally, setting),
        history=tally.history,
        rows=rows,
        seed=seed,
    )


def gather(pinned: Pinned, tally: Tally, setting: Setting = "federation") -> Evidence:
    """Return what was promised and what was asked for, by site and sum."""
    policy, plugin = pinned.policy, pinned.plugin
    study, plan = policy.study, policy.plan
    sums = tuple(
        SumEvidence(
            name=kind.sum.name,
            family=kind.sum.family,
            dim=kind.sum.dim,
            noise_multiplier=kind.noise_multiplier,
            sample_rate=kind.sum.sample_rate,
            clip_norm=kind.sum.clip_norm,
            cap=kind.sum.rounds,
            rounds_released=tally.released[kind.sum.name],
        )
        for kind in plan.kinds
    )
    sites = tuple(
        SiteEvidence(
            id=site.id,
            controller=site.controller,
            key_fingerprint=fingerprint(site.public_key),
            epsilon_spent=spent(policy, tally.charged.get(site.id, Counter())),
            delta=study.privacy.delta,
            rounds=sum(tally.charged.get(site.id, Counter()).values()),
        )
        for site in study.cohort.sites
    )
    failing = plan.epsilon_if_secagg_fails
    return Evidence(
        setting=setting,
        study=study.name,
        study_hash=study.hash.hex(),
        mode=study.privacy.mode,
        tolerated=study.cohort.tolerated,
        quorum=study.cohort.quorum,
        delta=study.privacy.delta,
        epsilon=plan.epsilon,
        epsilon_if_secagg_fails=failing if math.isfinite(failing) else None,
        clip_norm=study.privacy.clip_norm,
        sums=sums,
        sites=sites,
        plugin=PluginEvidence(
            name=plugin.name, distribution=plugin.distribution, version=plugin.version, hash=plugin.hash.hex()
        ),
        versions={name: metadata.version(name) for name in _DISTRIBUTIONS},
        started=tally.started,
        ended=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seed_note="The seed fixes initial weights and the coordinator's draws; privacy noise and sampling came "
        "from each site's operating system.",
    )
