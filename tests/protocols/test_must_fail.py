"""The stored scenarios that must fail, replayed: the layer they name refuses, none before it, and nothing changes."""

import json
from collections import Counter
from typing import Any

import pytest
from tests.vectors import must_fail, session, wrong_openings
from tests.vectors.generate import FOLDER
from tests.vectors.replay import CoordinatorParty, Party, Refused, SiteParty, go_on, party_of, replay

from synthfed.protocols.errors import LocalProtocolError
from synthfed.protocols.secagg import table

HONEST: dict[str, Any] = json.loads((FOLDER / "session.json").read_text(encoding="ascii"))
STORED: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="ascii")) for path in sorted(must_fail.MUST_FAIL.glob("*.json"))
}
SCENARIOS = must_fail.scenarios()
NO_SESSION = ("frame", "message", "terms")


def last_refusal(scenario: dict[str, Any], party: Party | None) -> Refused:
    with pytest.raises(Refused) as caught:
        replay(scenario["inputs"], party)
    return caught.value


def test_the_generator_still_writes_the_stored_session() -> None:
    assert must_fail.text_of(session.session()) == (FOLDER / "session.json").read_text(encoding="ascii")


def test_every_scenario_of_the_generator_is_stored_and_no_other() -> None:
    assert set(STORED) == set(SCENARIOS)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_generator_still_writes_the_stored_scenario(name: str) -> None:
    assert must_fail.described(SCENARIOS[name], HONEST) == STORED[name]


@pytest.mark.parametrize("name", STORED)
def test_exactly_the_named_layer_refuses_and_the_machine_is_as_it_was(name: str) -> None:
    scenario = STORED[name]
    assert (scenario["format"], scenario["name"]) == (must_fail.FORMAT, name)
    party = None if scenario["layer"] in NO_SESSION else party_of(scenario["inputs"], HONEST)
    state = party.machine.state.name if party else ""
    before = party.held() if party else None
    refused = last_refusal(scenario, party)
    assert refused.layer == scenario["layer"]
    assert (type(refused.error).__name__, str(refused.error)) == (scenario["error"], scenario["says"])
    if party is None:
        assert "state" not in scenario
        return
    assert party.machine.state.name == scenario["state"]
    if scenario["error"] == "SumCorrupt":
        assert (state, scenario["state"]) == ("COLLECTING", "REVEALING")
        party.machine.state = table.Aggregate.COLLECTING
    assert party.held() == before


@pytest.mark.parametrize("name", [name for name in STORED if STORED[name]["error"] == "SumCorrupt"])
def test_a_sum_that_is_corrupt_pauses_for_good(name: str) -> None:
    party = party_of(STORED[name]["inputs"], HONEST)
    assert isinstance(party, CoordinatorParty)
    last_refusal(STORED[name], party)
    assert party.total == []
    for state in ("REVEALING", "PAUSED"):
        for onward in (party.machine.roll, party.machine.seal, party.machine.give_up, lambda: party.act("round")):
            with pytest.raises(LocalProtocolError, match=state):
                onward()
        if state == "REVEALING":
            party.machine.judge()


def test_the_honest_session_is_taken_by_the_site_and_answered_with_the_stored_bytes() -> None:
    party = SiteParty(HONEST, {})
    for step in ("open", "roll", "seal", "round"):
        go_on(party, step, HONEST["frames"])
    assert party.machine.transcript.hex() == HONEST["transcript"]


def test_the_honest_session_is_taken_by_the_coordinator_and_gives_the_stored_sum() -> None:
    party = CoordinatorParty(HONEST)
    for step in HONEST["frames"]:
        if step != "ready":  # the aggregator is not told
            go_on(party, step, HONEST["frames"])
    party.add_up()
    assert party.total == HONEST["sum"]


def test_the_honest_opening_is_given_by_the_site_and_taken_by_the_coordinator() -> None:
    frames, site = HONEST["frames"] | HONEST["opening"], SiteParty(HONEST, {})
    for step in ("open", "roll", "seal", "round", "reveal"):
        go_on(site, step, frames)
    assert site.machine.state is table.Site.REVEALED
    after = [*wrong_openings.failed(), *HONEST["opening"]]
    coordinator = party_of({"party": "coordinator", "after": after}, HONEST)
    assert isinstance(coordinator, CoordinatorParty)
    finding = coordinator.machine.judge()
    assert (finding.sites, finding.pairs, finding.silent) == (("south",), (), ())


def test_after_a_refusal_the_honest_session_goes_on() -> None:
    for name in ("roll-own-key-swapped", "seal-site-missing", "round-counter-zero", "payload-nan"):
        party = party_of(STORED[name]["inputs"], HONEST)
        last_refusal(STORED[name], party)
        done = len(STORED[name]["inputs"]["after"])
        for step in ("open", "roll", "seal", "round")[done:]:
            go_on(party, step, HONEST["frames"])
        assert party.machine.state is table.Site.SENT


def test_every_layer_has_its_scenarios() -> None:
    counts = Counter(scenario["layer"] for scenario in STORED.values())
    assert set(counts) == {"frame", "message", "payload", "terms", "site", "aggregator"}
    assert min(counts.values()) >= 10
