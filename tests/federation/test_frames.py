"""Every frame of whole studies, held against what its message may hold: no number of records, loss, time or text.

When an answer leaves is tests/client/test_response_time.py's matter.
"""

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.federation.conftest import Federation, Toy
from tests.federation.coordinator import Coordinator
from tests.federation.frames import TO_COORDINATOR, TO_SITE, Exchange, Size, check, record

from synthfed.plugins.api import Array, Payload
from synthfed.protocols.errors import DataError
from synthfed.protocols.schema import Records
from synthfed.protocols.secagg import messages

Federate = Callable[..., Federation]
ROOT = Path(__file__).parents[2]
HEADER = "kind,ill\n"
UNITS_PER_SITE = 150


def rows_of_the_page() -> list[tuple[int, str, str, list[str]]]:
    """Return number, name, direction and fields of each message as docs/protocol.md has them."""
    text = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (to \w+) \| (.+) \|$", text, re.MULTILINE)
    return [(int(number), name, to, split_outside_brackets(given)) for number, name, to, given in rows]


def split_outside_brackets(text: str) -> list[str]:
    """Return the parts between commas; a bracket's commas do not count.

    >>> split_outside_brackets("a, list of (b, c (8)), d")
    ['a', 'list of (b, c (8))', 'd']
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def test_every_message_that_exists_is_declared_field_by_field() -> None:
    declared = {**TO_SITE, **TO_COORDINATOR}
    assert set(declared) == set(messages._FORMATS)
    for kind, rules in declared.items():
        assert list(rules) == [each.name for each in fields(kind)], f"{kind.__name__} has a field without a declaration"
    assert set(TO_SITE) == set(messages.Request.__args__)


def test_the_declaration_is_the_table_of_the_protocols_page() -> None:
    forms = {form.number: kind for kind, form in messages._FORMATS.items()}
    rows = rows_of_the_page()
    assert [number for number, *_ in rows] == sorted(forms)
    for number, name, to, given in rows:
        kind, direction = forms[number], TO_SITE if to == "to site" else TO_COORDINATOR
        assert (kind.__name__, kind in direction) == (name, True)
        # One that carries its notes beside the field (a code's meanings) or nothing at all has no list to compare.
        if name not in ("Refusal", "Ready"):
            assert len(given) == len(fields(kind)), f"{name}: {given}"
        for words, each in zip(given, fields(kind), strict=False):
            length = re.search(r"\((\d+)(?: bytes)?\)$", words)
            rule = direction[kind][each.name]
            if length and isinstance(wanted := at_rest(rule), Size):
                assert wanted == Size(int(length[1])), f"{name}.{each.name}"


def at_rest(rule: Callable[[Any], Any]) -> Any:
    """Return what a rule that needs no session declares."""
    try:
        return rule(None)
    except AttributeError:
        return None


@pytest.mark.parametrize("terms", [{"gan": True}, {"mode": "local"}], ids=["with-gradients", "local"])
def test_every_frame_of_a_study_is_as_declared(federate: Federate, terms: dict[str, Any]) -> None:
    federation = federate(rounds=2, **terms)
    exchanges = record(federation)
    federation.train()
    check(exchanges, federation.pinned.policy)
    asked = {type(messages.decode(each.request)[0]) for each in exchanges}
    assert asked == {messages.Open, messages.Roll, messages.Seal, messages.Round}


class Broken(Toy):
    """A plugin that fails on records; the error's text holds them."""

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:  # noqa: ARG002
        raise ValueError(f"these records cannot be used: {batch}")


class NotANumber(Toy):
    """A plugin whose encoding of records is no number."""

    def encode(self, records: Records) -> Array:
        return np.full_like(super().encode(records), np.nan)


def make_odd(federation: Federation) -> None:
    """Give four sites what could show: one record, as many as the study allows, NaN, a plugin that fails."""
    for site, count in {"s1": 1, "s2": UNITS_PER_SITE}.items():
        (federation.folder / f"{site}.csv").write_text(HEADER + "a,yes\n" * count)
        federation.restart(site)
    models: dict[str, Any] = {"s3": NotANumber(federation.study), "s4": Broken(federation.study)}
    for site, model in models.items():
        federation.sites[site].open(replace(federation.pinned, model=model))


def story(federation: Federation) -> list[Exchange]:
    """Return every frame of a study from its first to its last, and of a question too many after it."""
    exchanges = record(federation)
    federation.train()
    coordinator = Coordinator(federation)
    question = coordinator.round()
    assert set(coordinator.all(question).values()) == {messages.Refusal(messages.Code.BUDGET)}
    wrong = replace(question, payload=b"\x00\x00\xc0\x7f")  # NaN
    assert set(coordinator.all(wrong).values()) == {messages.Refusal(messages.Code.PROTOCOL)}
    coordinator.all(messages.Reveal(bytes(32)))
    check([each for each in exchanges if not is_reveal(each)], federation.pinned.policy)
    return exchanges


def is_reveal(exchange: Exchange) -> bool:
    """Return whether it asks for the keys of a round that never was, which is no honest coordinator's frame."""
    return isinstance(messages.decode(exchange.request)[0], messages.Reveal)


def test_frames_have_the_same_kinds_and_lengths_whatever_records_and_plugins_do(
    federate: Federate, caplog: pytest.LogCaptureFixture
) -> None:
    torch.set_num_threads(1)
    plain = federate(sites=5, quorum=4, rounds=2, name="plain")
    odd = federate(sites=5, quorum=4, rounds=2, name="odd")
    make_odd(odd)
    usual, unusual = story(plain), story(odd)
    assert "the plugin failed on records" in caplog.text, "the one that fails was asked"
    assert sorted(each.form for each in usual) == sorted(each.form for each in unusual)
    for site in plain.sites:  # and in the same order
        assert [e.form for e in usual if e.site == site] == [e.form for e in unusual if e.site == site]


def test_a_site_without_records_sends_no_frame_at_all(federate: Federate) -> None:
    federation = federate(sites=3)
    (federation.folder / "s0.csv").write_text(HEADER)
    with pytest.raises(DataError, match="has no rows"):
        federation.restart("s0")


def test_a_field_that_is_not_as_declared_is_found(federate: Federate) -> None:
    """The check itself: what a careless version might add to a frame does not pass it."""
    federation = federate(sites=3, rounds=1)
    exchanges = record(federation)
    federation.train()
    policy = federation.pinned.policy
    check(exchanges, policy)
    for kind, change, words in (
        (messages.Hello, {"journal_length": 120}, "Hello.journal_length"),
        (messages.Masked, {"words": b"longer" * 8}, "Masked.words"),
        (messages.Masked, {"context": bytes(32)}, "Masked.context"),
        (messages.Confirm, {"transcript": bytes(32)}, "Confirm.transcript"),
    ):
        with pytest.raises(AssertionError, match=words):
            check([changed(each, kind, change) for each in exchanges], policy)


def changed(exchange: Exchange, kind: type, change: dict[str, Any]) -> Exchange:
    reply, number = messages.decode(exchange.reply)
    if type(reply) is not kind:
        return exchange
    return replace(exchange, reply=messages.encode(replace(reply, **change), number))
