"""Prints a study's plan: every sum's noise, the promise, and what is left of it with more bad sites.

Never computes a plan: it shows one.
"""

from rich.console import Console
from rich.table import Table

from synthfed.protocols.privacy.plan import Plan, epsilon_by_sites
from synthfed.protocols.study import Study
from synthfed.protocols.sums import answer_time_s, own_noise


def print_plan(console: Console, study: Study, plan: Plan) -> None:
    """Print what the study's terms amount to."""
    privacy, cohort = study.privacy, study.cohort
    unit = (
        "one record" if privacy.unit is None else f"one {privacy.unit!r} (records: at most {privacy.records_per_unit})"
    )
    console.print(f"study            {study.name}{'   (draft: sites without keys)' if study.is_draft else ''}")
    console.print(f"terms            {study.hash.hex()[:16]}")
    console.print(f"promise          epsilon {plan.epsilon:.3f} of {privacy.epsilon}, delta {privacy.delta}, to {unit}")
    console.print(f"mode             {privacy.mode}, {len(cohort.sites)} sites, every round needs {cohort.quorum}")
    keys = "X25519 with ML-KEM-768" if study.aggregation.key_agreement == "hybrid" else "X25519 alone"
    console.print(f"keys             {keys}")
    console.print(
        f"if masks fail    epsilon {plan.epsilon_if_secagg_fails:.3f} (every other site works with the coordinator)"
    )
    if privacy.mode == "distributed" and len(cohort.sites) == 3:
        console.print(
            "note             with three sites every round needs all, and two bad ones leave one share of noise"
        )
    table = Table(
        "sum", "values", "rounds", "steps", "rate", "clip", "noise", "own", "slots", "ring", box=None, padding=(0, 1)
    )
    for kind in plan.kinds:
        table.add_row(
            kind.sum.name,
            str(kind.sum.dim),
            str(kind.sum.rounds),
            str(kind.sum.steps),
            f"{kind.sum.sample_rate:g}",
            f"{kind.sum.clip_norm:g}",
            f"{kind.noise_multiplier:.4f}",
            f"{own_noise(study, kind):.4f}",
            str(kind.slots),
            f"{kind.ring_bits} bit",
        )
    console.print(table)
    floor = "" if privacy.sigma_floor is None else f", at least {privacy.sigma_floor:g} by privacy.sigma_floor"
    if any(kind.sum.steps > 1 for kind in plan.kinds):
        console.print("steps: of one round at each site, all within its answer time, each charged as a round is")
    if all(kind.sum.family == "statistic" for kind in plan.kinds):
        console.print("note: no network takes private steps, so privacy.steps is not used; all sums are statistics")
    console.print(f"own: noise of one site alone when all take part, in clip norms{floor}")
    if privacy.mode == "distributed":
        curve = ",  ".join(f"{bad}: {value:.2f}" for bad, value in plan.curve)
        console.print(f"epsilon by number of bad sites   {curve}")
    held = ",  ".join(f"{sites}: {value:.2f}" for sites, value in epsilon_by_sites(study, plan))
    console.print(f"epsilon by sites that hold a unit {held}   (promised for {privacy.sites_per_unit})")
    sent = sum(kind.sum.rounds * kind.answer_bytes for kind in plan.kinds) / 1e6
    got = sum(kind.sum.rounds * kind.payload_bytes for kind in plan.kinds) / 1e6
    rounds = sum(kind.sum.rounds for kind in plan.kinds)
    console.print(f"in {rounds} rounds each site sends {sent:.3g} MB and gets {got:.3g} MB")
    seconds = sum(kind.sum.rounds * answer_time_s(study, kind.sum.family) for kind in plan.kinds)
    console.print(f"at least {seconds:.0f} s of fixed answer time")
