"""Writes the honest sessions and the scenarios that every implementation must refuse, one a file, under `must-fail/`.

Run it only for a new version of a format: `PYTHONPATH=. python -m tests.vectors.must_fail`.
"""

import json
from itertools import chain
from typing import Any, Final

from tests.vectors import session, wrong_bytes, wrong_handshake, wrong_rounds, wrong_suites, wrong_terms
from tests.vectors.generate import FOLDER
from tests.vectors.replay import Refused, party_of, replay
from tests.vectors.scenario import Scenario

FORMAT: Final = 1
MUST_FAIL: Final = FOLDER / "must-fail"


def scenarios() -> dict[str, Scenario]:
    """Return every scenario by its name."""
    every = chain(
        *(wrong_bytes.framing(), wrong_bytes.messages(), wrong_bytes.payloads(), wrong_terms.terms()),
        *(wrong_handshake.rolls(), wrong_handshake.seals(), wrong_handshake.turns(), wrong_suites.suites()),
        *(wrong_rounds.rounds(), wrong_rounds.coordination(), wrong_rounds.sums()),
    )
    found: dict[str, Scenario] = {}
    for scenario in every:
        assert scenario.name not in found, scenario.name
        found[scenario.name] = scenario
    return found


def described(scenario: Scenario, stored: dict[str, Any]) -> dict[str, Any]:
    """Return a scenario as its file holds it, with the error of this implementation and the state that is left."""
    described = {"format": FORMAT, "name": scenario.name, "layer": scenario.layer, "why": scenario.why}
    party = party_of(scenario.inputs, stored) if "party" in scenario.inputs else None
    try:
        replay(scenario.inputs, party)
    except Refused as refused:
        assert refused.layer == scenario.layer, f"{scenario.name} was refused by {refused}"
        described |= {"error": type(refused.error).__name__, "says": str(refused.error)}
    else:
        raise AssertionError(f"{scenario.name} was not refused")
    if party is not None:
        described["state"] = party.machine.state.name
    return described | {"inputs": scenario.inputs}


def text_of(content: dict[str, Any]) -> str:
    """Return the content of one file."""
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    honest = {name: each.described() for name, each in session.SESSIONS.items()}
    for name, content in honest.items():
        (FOLDER / f"{name}.json").write_text(text_of(content), encoding="ascii")
    MUST_FAIL.mkdir(exist_ok=True)
    for old in MUST_FAIL.glob("*.json"):
        old.unlink()
    for name, each in scenarios().items():
        (MUST_FAIL / f"{name}.json").write_text(text_of(described(each, honest)), encoding="ascii")
