"""One run of a comparison: a simulated federation, or a trivial model, and everything measured of it.

Never leaves a file behind, and never measures a cost with the judges' work in it.
"""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from synthfed.plugins.api import Source
from synthfed.protocols.cohort import Site, least_quorum, least_tolerated
from synthfed.protocols.errors import SynthfedError
from synthfed.protocols.schema import Records
from synthfed.protocols.study import ModelTerms, Privacy, Study

from ..drafting import make_study
from ..release import Release, open_release
from ..simulate import simulate
from .dimensions import of_floor, of_model, of_naive_bayes, of_rows
from .entries import FLOOR, Contender, DataSet, Peer
from .meter import Meter, metering, this_place
from .peers import draw
from .plan import Wanted
from .results import Cost, Measure, Run
from .rows import Split, read_cells, split

_LONGEST_ERROR: Final = 300


def run(wanted: Wanted, folder: Path | None, python: Path | None = None) -> Run:
    """Return what came of one run of the plan, also where it failed.

    Args:
        wanted: the run.
        folder: where files of data sets are.
        python: the interpreter that peers run in; None for this one.
    """
    data, seed, blank = wanted.data, wanted.seed, blank_run(wanted)
    try:
        with tempfile.TemporaryDirectory(prefix="synthfed-compare-") as temporary:
            parted = split(data, read_cells(data, folder), seed, Path(temporary), wanted.split)
            sizes = {"sites": len(parted.sites), "train": len(parted.train), "test": len(parted.test)}
            blank = blank.model_copy(update=sizes)
            if isinstance(wanted.model, str):
                return blank.model_copy(update={"measures": _trivial(wanted.model, data, parted, seed)})
            if isinstance(wanted.model, Peer):
                return _drawn(blank, wanted.model, data, parted, python, Path(temporary))
            return _trained(blank, wanted.model, data, parted, Path(temporary) / "release")
    except SynthfedError as error:  # of this federation alone: the next run has ledgers of its own
        return failed(blank, str(error))
    except Exception as error:  # noqa: BLE001  (the edge to foreign code, whose failure is a result)
        return failed(blank, f"{type(error).__name__}: {error}")


def blank_run(wanted: Wanted) -> Run:
    """Return a run of which nothing is measured yet."""
    (name, data, seed, dealt, rung), privacy = wanted.key, wanted.data.privacy
    promises = not isinstance(wanted.model, Peer) or wanted.model.is_private
    return Run(
        model=name,
        data=data,
        seed=seed,
        split=dealt,
        rung=rung,
        terms=wanted.terms,
        epsilon=privacy.epsilon if promises else None,
        delta=privacy.delta if promises else None,
        place=this_place(),
    )


def study_of(data: DataSet, model: str, terms: ModelTerms, privacy: Privacy, sites: Iterable[str]) -> Study:
    """Return the study of one run; quorum and tolerated sites are those that `study new` drafts.

    Raises:
        ConfigError: the terms do not fit.
    """
    roster = [Site(id=site) for site in sites]
    tolerated = 1 if privacy.mode == "local" else least_tolerated(roster)
    quorum = min(len(roster), least_quorum(len(roster), tolerated, privacy.mode))
    return make_study(
        name=f"{data.name}.{model}",
        target=data.target,
        domain=data.domain,
        site_column=data.site_column,
        privacy=privacy,
        model=terms,
        cohort={"sites": roster, "tolerated": tolerated, "quorum": quorum},
        columns=data.columns,
        constraints=data.constraints,
    )


def _trivial(model: str, data: DataSet, parted: Split, seed: int) -> dict[str, Measure]:
    study = study_of(data, model, ModelTerms(plugin=model), data.privacy, parted.sites)
    measure = of_floor if model == FLOOR else of_naive_bayes
    return measure(study.released, parted.train, parted.test, data.few, seed)


def _trained(blank: Run, model: Contender, data: DataSet, parted: Split, out: Path) -> Run:
    terms = ModelTerms(plugin=model.plugin or model.name, options=model.options)
    privacy = model.privacy(data)
    privacy = privacy.model_copy(update={"units_per_site": max(privacy.units_per_site, parted.declared)})
    study = study_of(data, model.name, terms, privacy, parted.sites)
    with metering() as meter:
        simulate(study, parted.sites, out, rows=len(parted.train), seed=blank.seed, watch=lambda _: None)
    release = open_release(out)
    synthetic = release.sample(release.manifest.rows, release.manifest.seed)
    measures = of_model(
        release.study.released,
        release.model,
        release.trainer,
        {"synthetic": synthetic, "train": parted.train, "holdout": parted.test},
        data.few,
        blank.seed,
    )
    spent = max(site.epsilon_spent for site in release.evidence.sites)
    cost = _cost(release, meter)
    return blank.model_copy(
        update={"measures": measures, "cost": cost, "epsilon": release.evidence.epsilon, "spent": spent}
    )


def _drawn(blank: Run, peer: Peer, data: DataSet, parted: Split, python: Path | None, folder: Path) -> Run:
    study = study_of(data, peer.name, ModelTerms(plugin=peer.system), data.privacy, parted.sites)
    (folder / "peer").mkdir()
    drawn = draw(peer, data, parted.train, blank.seed, python, folder / "peer")
    rows: dict[Source, Records] = {"synthetic": drawn.records, "train": parted.train, "holdout": parted.test}
    place = blank.place.model_copy(update={"versions": {**blank.place.versions, **_peers(drawn.versions)}})
    measures = of_rows(study, rows, data.few, blank.seed)
    return blank.model_copy(update={"measures": measures, "cost": drawn.cost, "sites": 1, "place": place})


def _peers(versions: Mapping[str, str]) -> dict[str, str]:
    return {f"peer's {name}": version for name, version in versions.items()}


def _cost(release: Release, meter: Meter) -> Cost:
    return Cost(
        seconds=meter.seconds,
        cpu_seconds=meter.cpu_seconds,
        peak_mib=meter.peak_mib,
        state_numbers=sum(int(array.size) for array in release.trainer.state().values()),
        sent_numbers=max(each.dim for each in release.evidence.sums),
    )


def failed(blank: Run, why: str) -> Run:
    """Return a run that failed, and why."""
    sentence = " ".join(why.split())
    shown = sentence if len(sentence) <= _LONGEST_ERROR else f"{sentence[:_LONGEST_ERROR]} ..."
    return blank.model_copy(update={"error": shown})
