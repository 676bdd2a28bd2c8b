"""Rounds that a site must not answer, and what a coordinator must not take from sites."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from tests.vectors.scenario import Scenario, frame_of, to_coordinator, to_site
from tests.vectors.session import HYBRID, PAYLOAD, ROUND, SITES, STEPS, VALUES
from tests.vectors.wrong_handshake import flipped, second_spelling, under

from synthfed.protocols.privacy.plan import largest_entry
from synthfed.protocols.secagg.messages import Masked, Message
from synthfed.protocols.sums import GRID

POLICY, HELLOS, CONFIRMS, MASKED = HYBRID.policy, HYBRID.hellos, HYBRID.confirms, HYBRID.maskeds
hello, confirm, masked, signed = HYBRID.hello, HYBRID.confirm, HYBRID.masked, HYBRID.signed
WINDOW = 2**10
Changes = tuple[tuple[str, dict[str, Any], str], ...]
"""Name, fields of the round that differ, and why."""


def rounds() -> Iterator[Scenario]:
    """Yield rounds to a site with agreed keys, and to one that has answered the first round."""
    first: Changes = (
        ("counter-zero", {"counter": 0}, "the first counter is one"),
        ("counter-too-far", {"counter": WINDOW}, "a gap is walked key by key, which takes time"),
        ("counter-largest", {"counter": 2**64 - 1}, "a gap is walked key by key, which takes time"),
        ("cohort-unsorted", {"cohort": ("east-2", "alps", "north", "south")}, "a cohort has one spelling"),
        ("cohort-site-twice", {"cohort": ("alps", "alps", "north", "south")}, "a site would count twice"),
        ("cohort-stranger", {"cohort": (*SITES, "west")}, "a stranger adds no noise and shares no mask"),
        ("cohort-without-this-site", {"cohort": SITES[:3]}, "its words would be outside every sum, under no cover"),
        ("cohort-below-quorum", {"cohort": ("north", "south")}, "too few sites would add noise"),
        ("cohort-alone", {"cohort": ("south",)}, "without a peer there is no mask at all"),
        ("cohort-empty", {"cohort": ()}, "nobody was asked"),
        ("kind-unknown", {"kind": "other"}, "what is not in the plan has no noise"),
        ("kind-unknown-without-payload", {"kind": "other", "payload": b""}, "only a probe is no kind of the plan"),
        ("kind-empty", {"kind": ""}, "what is not in the plan has no noise"),
        ("kind-in-upper-case", {"kind": "Steps"}, "what is not in the plan has no noise"),
        ("probe-with-payload", {"kind": "probe", "payload": PAYLOAD}, "a probe has no data"),
    )
    for name, changes, why in first:
        yield Scenario(f"round-{name}", "site", why, to_site("open roll seal", replace(ROUND, **changes)))
    second: Changes = (
        ("counter-behind", {"counter": 0}, "its keys are gone"),
        ("counter-again-with-other-payload", {"payload": bytes(24)}, "one mask over two sums shows their difference"),
        ("counter-again-with-other-kind", {"kind": "counts"}, "one mask over two sums shows their difference"),
        ("counter-again-with-other-cohort", {"cohort": SITES[1:]}, "one mask over two sums shows their difference"),
        ("counter-too-far-ahead", {"counter": 1 + WINDOW}, "a gap is walked key by key, which takes time"),
    )
    for name, changes, why in second:
        yield Scenario(f"round-{name}", "site", why, to_site("open roll seal round", replace(ROUND, **changes)))


def joined(*steps: str | dict[str, str]) -> list[str | dict[str, str]]:
    """Return the honest steps of a coordinator, "hellos" and its like standing for those of every site."""
    found: list[str | dict[str, str]] = []
    for step in steps:
        plural = isinstance(step, str) and step in ("hellos", "confirms", "maskeds")
        found += [f"{str(step)[:-1]} {name}" for name in SITES] if plural else [step]
    return found


HELLO_STAGE = joined("hello alps")
CONFIRM_STAGE = joined("hellos", "roll", "confirm alps")
ROUND_STAGE = joined("hellos", "roll", "confirms", "seal", "round", "masked alps")
SUM_STAGE = joined("hellos", "roll", "confirms", "seal", "round", "maskeds", "sum")


def coordination() -> Iterator[Scenario]:
    """Yield wrong messages of sites; the site that sent one is left out."""
    north, told, sent = HELLOS["north"], CONFIRMS["north"], MASKED["north"]
    elsewhere = replace(POLICY, code=bytes(32))
    for name, after, sender, message, why in (
        ("hello-for-another-site", HELLO_STAGE, "north", HELLOS["south"], "a stream speaks for its own site only"),
        ("hello-of-a-stranger", HELLO_STAGE, "west", hello("north", site="west"), "a sybil would take part"),
        ("hello-of-another-session", HELLO_STAGE, "north", hello("north", session=bytes(32)), "old keys may be known"),
        ("hello-signature-tampered", HELLO_STAGE, "north", tampered(north), "anyone could speak for the site"),
        ("hello-signature-second-spelling", HELLO_STAGE, "north", respelt(north), "two encodings of one message"),
        ("hello-signature-of-another-site", HELLO_STAGE, "north", signed(north, "south"), "anyone could speak for it"),
        ("hello-policy-of-other-code", HELLO_STAGE, "north", under(elsewhere, north), "other terms, other promise"),
        ("hello-too-late", joined("hellos", "roll"), "north", north, "the roll is called"),
        ("confirm-of-another-transcript", CONFIRM_STAGE, "north", confirm("north", transcript=bytes(32)), "two rolls"),
        ("confirm-for-another-site", CONFIRM_STAGE, "north", CONFIRMS["south"], "a stream speaks for its site only"),
        ("confirm-signature-tampered", CONFIRM_STAGE, "north", tampered(told), "anyone could speak for the site"),
        (
            "confirm-signature-of-another-site",
            CONFIRM_STAGE,
            "north",
            signed(told, "south"),
            "anyone could speak for it",
        ),
        ("confirm-ciphertext-altered", CONFIRM_STAGE, "north", altered_confirm(), "the ciphertexts are signed"),
        ("confirm-before-roll", HELLO_STAGE, "alps", CONFIRMS["alps"], "there is no transcript yet"),
        (
            "masked-of-another-context",
            ROUND_STAGE,
            "north",
            masked_north(context=bytes(32)),
            "it answers another round",
        ),
        ("masked-words-too-few", ROUND_STAGE, "north", masked_north(words=sent.words[:-4]), "a sum has its dimension"),
        (
            "masked-words-too-many",
            ROUND_STAGE,
            "north",
            masked_north(words=sent.words + bytes(4)),
            "a sum has its dimension",
        ),
        ("masked-words-empty", ROUND_STAGE, "north", masked_north(words=b""), "a sum has its dimension"),
        (
            "masked-canary-too-short",
            ROUND_STAGE,
            "north",
            masked_north(canary=sent.canary[:-4]),
            "a canary has eight words",
        ),
        ("masked-words-tampered", ROUND_STAGE, "north", replace(sent, words=flipped(sent.words)), "words are signed"),
        (
            "masked-canary-tampered",
            ROUND_STAGE,
            "north",
            replace(sent, canary=flipped(sent.canary)),
            "canaries are signed",
        ),
        ("masked-signature-tampered", ROUND_STAGE, "north", tampered(sent), "anyone could speak for the site"),
        ("masked-signature-of-another-site", ROUND_STAGE, "north", signed(sent, "south"), "anyone could speak for it"),
        ("masked-of-another-site", ROUND_STAGE, "north", MASKED["south"], "a signature names its site"),
        ("masked-after-sum", SUM_STAGE, "north", sent, "the sum is out; a late word could only change the next one"),
        ("masked-before-round", joined("hellos", "roll", "confirms", "seal"), "north", sent, "nothing was asked"),
    ):
        yield Scenario(name, "aggregator", why, to_coordinator(after, sender, message))


def tampered(message: Any) -> Any:
    return replace(message, signature=flipped(message.signature, 33))


def respelt(message: Any) -> Any:
    return replace(message, signature=second_spelling(message.signature))


def altered_confirm() -> Message:
    told = CONFIRMS["north"]
    return replace(told, ciphertexts=(("south", flipped(told.ciphertexts[0][1])),))


def masked_north(**changes: Any) -> Masked:
    return masked("north", VALUES["north"], **changes)


def sums() -> Iterator[Scenario]:
    """Yield complete cohorts, every message of them valid, whose sum must not be used: the study pauses."""
    noise = GRID * math.sqrt(len(SITES))
    reach = math.ceil(len(SITES) * largest_entry(POLICY.study, STEPS) + 16 * noise)
    others = sum((VALUES[name] for name in SITES[:3]), np.zeros(6, dtype=np.int64))
    just = np.array([0, 0, reach + 1000, 0, 0, 0]) - others  # the norm alone would still pass
    wide = np.full(6, 250_000_000, dtype=np.int64)
    other = MASKED["south"].canary
    for name, last, why in (
        ("canary-off-by-one", masked("south", VALUES["south"], ones=2), "a site was counted that did not answer"),
        ("canary-unmasked", masked("south", VALUES["south"], canary=bytes(32)), "masks did not cancel"),
        ("canary-of-other-keys", masked("south", VALUES["south"], canary=other[::-1]), "masks did not cancel"),
        (
            "words-of-other-keys",
            masked("south", VALUES["south"], words=MASKED["south"].words[::-1]),
            "masks did not cancel",
        ),
        ("entry-beyond-reach", masked("south", 10 * just), "no clipped sum and no noise can be so large"),
        ("entry-just-beyond-reach", masked("south", just), "no clipped sum and 16 deviations of noise reach it"),
        ("entry-just-below-reach", masked("south", -just - 2 * others), "no sum and 16 deviations of noise reach it"),
        ("norm-beyond-reach", masked("south", wide), "entries that clipping allows, but not all at once"),
    ):
        after = [*joined("hellos", "roll", "confirms", "seal", "round"), *(f"masked {name}" for name in SITES[:3])]
        after.append({"from": "south", "frame": frame_of(last)})
        yield Scenario(f"sum-{name}", "aggregator", why, {"party": "coordinator", "after": after})
