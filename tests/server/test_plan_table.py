"""The plan as `study check` prints it: what rounds of several steps are, and what goes over the network."""

import re
from dataclasses import replace

import pytest
from rich.console import Console
from tests.protocols.federation import study_of

from synthfed.protocols.privacy.plan import Plan
from synthfed.protocols.sums import Kind, Sum
from synthfed.server.plan_table import print_plan

CRITIC = Kind(Sum("critic", "gradient", 2500, 1.0, 0.1, 100, 1.0, (("weights", (2500,)),)), 1.5, 128, 32)
BY_FIVE = replace(CRITIC, sum=replace(CRITIC.sum, rounds=20, steps=5))


def printed(kind: Kind) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        print_plan(console, study_of(mode="local"), Plan((kind,), 2.0, 2.0, ((1, 2.0),)))
    return re.sub(" +", " ", capture.get())


@pytest.mark.parametrize(
    ("kind", "row", "traffic"),
    [
        (CRITIC, "critic 2500 100 1 ", "in 100 rounds each site sends 1 MB and gets 1 MB"),
        (BY_FIVE, "critic 2500 20 5 ", "in 20 rounds each site sends 0.2 MB and gets 0.2 MB"),
    ],
)
def test_rounds_steps_and_bytes_are_told(kind: Kind, row: str, traffic: str) -> None:
    text = printed(kind)
    assert row in text
    assert traffic in text


def test_a_plan_of_statistics_alone_says_that_no_steps_are_taken() -> None:
    note = "note: no network takes private steps, so privacy.steps is not used; all sums are statistics"
    marginals = replace(CRITIC, sum=Sum("marginals", "statistic", 100, 1.0, 1.0, 2, 1.0))
    assert note in printed(marginals)
    assert note not in printed(CRITIC)


def test_what_several_steps_are_is_told_only_where_there_are_some() -> None:
    note = "steps: of one round at each site, all within its answer time, each charged as a round is"
    assert note in printed(BY_FIVE)
    assert note not in printed(CRITIC)
