"""The stored scenarios that must fail, replayed: the layer they name refuses, none before it, and nothing changes."""

import json
from collections import Counter
from typing import Any

import pytest
from tests.vectors import must_fail, session
from tests.vectors.generate import FOLDER
from tests.vectors.replay import CoordinatorParty, Party, Refused, SiteParty, go_on, party_of, replay

from synthfed.protocols.errors import LocalProtocolError
from synthfed.protocols.secagg import table

HONEST: dict[str, dict[str, Any]] = {
    name: json.loads((FOLDER / f"{name}.json").read_text(encoding="ascii")) for name in session.SESSIONS
}
STORED: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="ascii")) for path in sorted(must_fail.MUST_FAIL.glob("*.json"))
}
SCENARIOS = must_fail.scenarios()
NO_SESSION = ("frame", "message", "terms")


def last_refusal(scenario: dict[str, Any], party: Party | None) -> Refused:
    with pytest.raises(Refused) as caught:
        replay(scenario["inputs"], party)
    return caught.value


@pytest.mark.parametrize("name", session.SESSIONS)
def test_the_generator_still_writes_the_stored_session(name: str) -> None:
    stored = (FOLDER / f"{name}.json").read_text(encoding="ascii")
    assert must_fail.text_of(session.SESSIONS[name].described()) == stored


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
        assert (state, scenario["state"]) == ("COLLECTING", "PAUSED")
        party.machine.state = table.Aggregate.COLLECTING
    assert party.held() == before


@pytest.mark.parametrize("name", [name for name in STORED if STORED[name]["error"] == "SumCorrupt"])
def test_a_sum_that_is_corrupt_pauses_for_good(name: str) -> None:
    party = party_of(STORED[name]["inputs"], HONEST)
    assert isinstance(party, CoordinatorParty)
    last_refusal(STORED[name], party)
    assert party.total == []
    for onward in (party.machine.roll, party.machine.seal, party.machine.give_up, lambda: party.act("round")):
        with pytest.raises(LocalProtocolError, match="PAUSED"):
            onward()


@pytest.mark.parametrize("honest", HONEST.values(), ids=HONEST)
def test_an_honest_session_is_taken_by_the_site_and_answered_with_the_stored_bytes(honest: dict[str, Any]) -> None:
    party = SiteParty(honest, {})
    for step in ("open", "roll", "seal", "round"):
        go_on(party, step, honest["frames"])
    assert party.machine.transcript.hex() == honest["transcript"]


@pytest.mark.parametrize("honest", HONEST.values(), ids=HONEST)
def test_an_honest_session_is_taken_by_the_coordinator_and_gives_the_stored_sum(honest: dict[str, Any]) -> None:
    party = CoordinatorParty(honest)
    for step in honest["frames"]:
        if step != "ready":  # the aggregator is not told
            go_on(party, step, honest["frames"])
    party.add_up()
    assert party.total == honest["sum"]


def test_after_a_refusal_the_honest_session_goes_on() -> None:
    for name in ("roll-own-key-swapped", "seal-site-missing", "round-counter-zero", "payload-nan"):
        party = party_of(STORED[name]["inputs"], HONEST)
        last_refusal(STORED[name], party)
        done = len(STORED[name]["inputs"]["after"])
        for step in ("open", "roll", "seal", "round")[done:]:
            go_on(party, step, HONEST["session"]["frames"])
        assert party.machine.state is table.Site.SENT


def test_every_layer_has_its_scenarios() -> None:
    counts = Counter(scenario["layer"] for scenario in STORED.values())
    assert set(counts) == {"frame", "message", "payload", "terms", "site", "aggregator"}
    assert min(counts.values()) >= 10
