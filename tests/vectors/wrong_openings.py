"""Openings of canary keys that a site must not answer, and answers that a coordinator must not take."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.vectors.scenario import Scenario, frame_of, to_coordinator, to_site
from tests.vectors.session import HYBRID, ROUND, SITES, VALUES, Session
from tests.vectors.wrong_handshake import flipped
from tests.vectors.wrong_rounds import SUM_STAGE, joined, tampered

from synthfed.protocols.secagg.messages import Reveal, Revealed

MASKED, REVEAL, REVEALED = HYBRID.maskeds, HYBRID.reveal, HYBRID.revealeds
revealed, signed = HYBRID.revealed, HYBRID.signed
TRANSCRIPT, SECOND = HYBRID.transcript, replace(ROUND, counter=2)


def reveals() -> Iterator[Scenario]:
    """Yield requests to open; a site opens the round it answered last, once, and nothing else."""
    answered = "open roll seal round"
    for name, after, message, why in (
        ("when-idle", "", REVEAL, "there is no round to open"),
        ("before-seal", "open roll", REVEAL, "there is no round to open"),
        ("before-round", "open roll seal", REVEAL, "keys of a round to come could be asked for in advance"),
        ("of-no-context", answered, Reveal(bytes(32)), "a request names the round that failed"),
        ("of-another-context", answered, Reveal(flipped(REVEAL.context, 31)), "nothing was answered under it"),
        ("of-the-next-round", answered, Reveal(SECOND.context(TRANSCRIPT)), "its canaries would be known in advance"),
        ("twice", f"{answered} reveal", REVEAL, "what was told is forgotten"),
        ("in-a-new-session", f"{answered} open", REVEAL, "the session's keys are gone"),
    ):
        yield Scenario(f"reveal-{name}", "site", why, to_site(after, message))
    earlier = to_site(answered, REVEAL)
    earlier["after"].append({"frame": frame_of(SECOND)})
    yield Scenario("reveal-of-an-earlier-round", "site", "its canary keys are gone", earlier)


def failed(session: Session = HYBRID) -> list[Any]:
    """Return the steps of a coordinator to a sum that is corrupt: the site with the last name lied in its canary."""
    lie = {"from": "south", "frame": frame_of(session.masked("south", VALUES["south"], ones=2))}
    rounds = joined("hellos", "roll", "confirms", "seal", "round")
    return [*rounds, *(f"masked {name}" for name in SITES[:3]), lie, "corrupt sum"]


def openings() -> Iterator[Scenario]:
    """Yield what sites state when asked to open; whoever states something wrong has opened nothing."""
    asked, honest = [*failed(), "reveal"], REVEALED["north"]
    first, second, third = honest.keys
    for name, after, sender, message, why in (
        (
            "before-the-sum",
            joined("hellos", "roll", "confirms", "seal", "round", "maskeds"),
            "north",
            honest,
            "nobody asked",
        ),
        ("after-a-good-sum", SUM_STAGE, "north", honest, "nobody asked, and nobody may be blamed"),
        ("twice", [*asked, "revealed north"], "north", honest, "the first word counts"),
        ("after-judgement", [*asked, "judge"], "north", honest, "a finding does not change any more"),
        ("of-a-stranger", asked, "west", honest, "west has no part in the round"),
        ("of-another-site", asked, "north", REVEALED["south"], "one site would speak for another"),
        ("of-another-context", asked, "north", revealed("north", context=bytes(32)), "it opens another round"),
        ("signature-tampered", asked, "north", tampered(honest), "anyone could speak for the site"),
        ("signature-of-another-site", asked, "north", signed(honest, "south"), "anyone could speak for the site"),
        (
            "signature-of-a-masked",
            asked,
            "north",
            replace(honest, signature=MASKED["north"].signature),
            "domains differ",
        ),
        ("key-tampered", asked, "north", with_keys((first[0], flipped(first[1])), second, third), "keys are signed"),
        ("keys-empty", asked, "north", revealed("north", keys=()), "every pair must be compared"),
        ("peer-missing", asked, "north", revealed("north", keys=(first, second)), "every pair must be compared"),
        ("peer-twice", asked, "north", revealed("north", keys=(first, first, third)), "which of them is it?"),
        ("peers-unsorted", asked, "north", revealed("north", keys=(second, first, third)), "a list has one spelling"),
        (
            "peer-itself",
            asked,
            "north",
            revealed("north", keys=(first, second, ("north", bytes(32)), third)),
            "no pair",
        ),
        ("peer-stranger", asked, "north", revealed("north", keys=(first, second, ("west", bytes(32)))), "no such pair"),
    ):
        yield Scenario(f"revealed-{name}", "aggregator", why, to_coordinator(after, sender, message))


def with_keys(*keys: tuple[str, bytes]) -> Revealed:
    return replace(REVEALED["north"], keys=keys)
