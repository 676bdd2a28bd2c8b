"""Proposals and decisions: whatever changes by a byte is refused, and only what was signed counts, once a key."""

import base64
import json
import random
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.protocols.federation import identity
from tests.vectors import generate

from synthfed.protocols.approval import NEVER, Act, Decision, PluginPin, Subject, standing
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import digest
from synthfed.protocols.proposal import Proposal, parse_terms
from synthfed.protocols.signed import decoded, public_text
from synthfed.protocols.study import Study, parse_study

VECTOR: dict[str, Any] = json.loads((generate.FOLDER / "approvals.json").read_text(encoding="ascii"))
STUDY = parse_study(VECTOR["study"]["toml"], where="vector")
PINS = (
    PluginPin(kind="model", name="gan", distribution="synthfed", version="0.1.0", hash="01" * 32),
    PluginPin(kind="domain", name="table", distribution="synthfed", version="0.1.0", hash="02" * 32),
)
SUBJECT = Subject("north", STUDY.hash.hex(), "03" * 32, PINS)
PEOPLE = {name: identity(name) for name in ("anna", "ben", "eve")}
KEYS = {name: public_text(key) for name, key in PEOPLE.items()}
LISTED = (KEYS["anna"], KEYS["ben"])


def said(name: str, act: Act, at_unix_s: int, subject: Subject = SUBJECT) -> Decision:
    return Decision.of(PEOPLE[name], act, subject, at_unix_s)


APPROVAL = said("anna", "approve", 100)
PROPOSAL = Proposal.of(PEOPLE["eve"], STUDY)
FLIPS = st.tuples(st.integers(0, 10**6), st.integers(1, 255))
HISTORIES = st.lists(
    st.builds(
        said,
        st.sampled_from(sorted(PEOPLE)),
        st.sampled_from(["approve", "approve", "reject", "withdraw"]),
        st.integers(0, 6),
    ),
    max_size=6,
)


def flipped(content: bytes, flip: tuple[int, int]) -> bytes:
    place, mask = flip[0] % len(content), flip[1]
    return content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]


def test_proposal_and_decisions_of_the_vector_parse_and_state_what_was_signed() -> None:
    proposal = Proposal.parse(VECTOR["proposal"]["file"].encode(), where="vector")
    assert proposal.study(where="vector").hash.hex() == VECTOR["study"]["hash"]
    assert proposal.terms == VECTOR["study"]["canonical"]
    assert proposal.fingerprint == VECTOR["proposal"]["fingerprint"]
    assert digest("proposal", *_unsigned(VECTOR["proposal"]["file"])).hex() == VECTOR["proposal"]["signed"]
    steward = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["steward_seed"]))
    for act, each in zip(("approve", "reject", "withdraw"), VECTOR["decisions"], strict=True):
        decision = Decision.parse(each["file"].encode(), where="vector")
        assert (decision.decision, decision.steward) == (act, public_text(steward))
        assert digest("decision", *_unsigned(each["file"])).hex() == each["signed"]


def _unsigned(file: str) -> list[bytes]:
    fields = {name: value for name, value in json.loads(file).items() if name != "signature"}
    return [json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()]


@given(FLIPS)
def test_any_changed_byte_of_a_decision_or_a_proposal_is_refused(flip: tuple[int, int]) -> None:
    for kind, good in ((Decision, APPROVAL), (Proposal, PROPOSAL)):
        with pytest.raises(ConfigError, match=r"^file: "):
            kind.parse(flipped(good.content, flip), where="file")
        assert kind.parse(good.content, where="file") == good


@given(st.data())
def test_a_decision_under_another_key_or_signature_is_refused(data: st.DataObject) -> None:
    signature = base64.b64encode(data.draw(st.binary(min_size=0, max_size=70))).decode()
    for fields in ({"signature": signature}, {"steward": KEYS["ben"]}, {"at_unix_s": data.draw(st.integers(101, 200))}):
        changed = APPROVAL.model_copy(update=fields)
        with pytest.raises(ConfigError, match="was changed, or is not signed by the key that it names"):
            Decision.parse(changed.content, where="file")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"{" * 100_000, b"\xff", b'{"format":2}'])
def test_what_is_no_such_file_is_named_as_such(content: bytes) -> None:
    with pytest.raises(ConfigError, match="file: is not a steward's decision: "):
        Decision.parse(content, where="file")
    with pytest.raises(ConfigError, match="file: is not a signed proposal: "):
        Proposal.parse(content, where="file")


def test_the_same_words_with_other_bytes_are_refused() -> None:
    spaced = json.dumps(json.loads(APPROVAL.content)).encode()
    with pytest.raises(ConfigError, match="is not a steward's decision as it was written: its bytes were changed"):
        Decision.parse(spaced, where="file")


def test_base64_has_one_spelling() -> None:
    signature = APPROVAL.signature
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = signature[:-3] + letters[letters.index(signature[-3]) + 1] + "=="
    assert base64.b64decode(other) == base64.b64decode(signature)
    assert decoded(other) == b""
    assert decoded("ä") == b""
    with pytest.raises(ConfigError):
        Decision.parse(APPROVAL.model_copy(update={"signature": other}).content, where="file")


@pytest.mark.parametrize(
    "fields",
    [
        {"policy": None},
        {"plugins": ()},
        {"decision": "reject"},
        {"steward": base64.b64encode(bytes(32)).decode()},
        {"study": "AB" * 32},
        {"study": "ab"},
        {"site": "No Name"},
        {"at_unix_s": -1},
        {"at_unix_s": 2**40 + 1},
        {"reason": "a\x1b[2J"},
        {"reason": ""},
    ],
)
def test_a_decision_that_says_too_little_or_too_much_cannot_be_made(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Decision.model_validate({**dict(APPROVAL), **fields})


def test_a_block_names_the_study_only_so_that_it_holds_for_any_code() -> None:
    block = said("anna", "withdraw", 5)
    assert (block.policy, block.plugins) == (None, ())
    assert not block.covers(SUBJECT)


def test_a_signature_of_one_kind_is_none_of_another() -> None:
    assert digest("decision", b"x") != digest("proposal", b"x")
    assert APPROVAL.signed != PROPOSAL.signed


def test_a_site_can_be_shown_a_study_file_or_a_proposal() -> None:
    assert parse_terms(VECTOR["study"]["toml"].encode(), where="x") == (STUDY, None)
    study, proposal = parse_terms(PROPOSAL.content, where="x")
    assert (study.hash, proposal) == (STUDY.hash, PROPOSAL)
    with pytest.raises(ConfigError, match="x: is not UTF-8 text"):
        parse_terms(b"\xff", where="x")
    with pytest.raises(ConfigError, match="x: format: is missing"):
        parse_terms(b"", where="x")


def test_terms_that_are_signed_but_wrong_or_not_canonical_are_refused() -> None:
    key = PEOPLE["eve"]
    for terms, match in (("{}", "is missing"), (json.dumps(json.loads(PROPOSAL.terms)), "not in canonical form")):
        proposal = Proposal.under(key, terms=terms, coordinator=public_text(key))
        with pytest.raises(ConfigError, match=match):
            parse_terms(proposal.content, where="x")


@given(st.sampled_from(["name", "epsilon", "purpose", "columns", "steps"]), st.integers(1, 99))
def test_any_change_of_the_terms_needs_a_new_approval(what: str, by: int) -> None:
    fields = STUDY.model_dump(mode="json")
    match what:
        case "epsilon" | "steps":
            fields["privacy"][what] += by
        case "columns":
            fields["columns"][1]["upper"] += by
        case _:
            fields[what] = f"{fields[what]}{by}"
    if fields["privacy"]["epsilon"] > 100:
        return
    other = replace(SUBJECT, study=Study.model_validate(fields).hash.hex())
    assert other.study != SUBJECT.study
    assert not standing([APPROVAL], other, LISTED, 1).is_approved


@given(st.sampled_from(["site", "study", "policy", "model", "domain"]), FLIPS)
def test_any_changed_byte_of_what_is_pinned_needs_a_new_approval(what: str, flip: tuple[int, int]) -> None:
    def other(text: str) -> str:
        return flipped(bytes.fromhex(text), flip).hex()

    match what:
        case "site":
            subject = replace(SUBJECT, site="south")
        case "study":
            subject = replace(SUBJECT, study=other(SUBJECT.study))
        case "policy":
            subject = replace(SUBJECT, policy=other(SUBJECT.policy))
        case _:
            pins = tuple(
                each.model_copy(update={"hash": other(each.hash)}) if each.kind == what else each for each in PINS
            )
            subject = replace(SUBJECT, plugins=pins)
    assert standing([APPROVAL], SUBJECT, LISTED, 1).is_approved
    found = standing([APPROVAL], subject, LISTED, 1)
    assert not found.is_approved
    assert bool(found.outdated) == (what in ("policy", "model", "domain"))


@pytest.mark.parametrize("fields", [{"version": "0.1.1"}, {"distribution": "synthfed-2"}, {"name": "wgan"}])
def test_another_version_distribution_or_name_of_a_plugin_needs_a_new_approval(fields: dict[str, str]) -> None:
    subject = replace(SUBJECT, plugins=(PINS[0].model_copy(update=fields), PINS[1]))
    assert standing([APPROVAL], subject, LISTED, 1).outdated == (APPROVAL,)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5))
def test_approvals_by_one_key_are_never_two(times: list[int]) -> None:
    own = [said("anna", "approve", at) for at in times]
    assert not standing(own, SUBJECT, LISTED, 2).is_approved
    assert standing([*own, said("ben", "approve", 9)], SUBJECT, LISTED, 2).is_approved
    assert not standing([*own, said("eve", "approve", 9)], SUBJECT, LISTED, 2).is_approved


@given(HISTORIES, st.integers(1, 2), st.randoms(use_true_random=False))
def test_decisions_amount_to_the_same_in_any_order_and_however_often_they_lie_there(
    history: list[Decision], needed: int, rng: random.Random
) -> None:
    other = [*history, *history]
    rng.shuffle(other)
    first, second = (standing(each, SUBJECT, LISTED, needed) for each in (history, other))
    assert (first.approvals, first.block, first.is_approved) == (second.approvals, second.block, second.is_approved)


@given(HISTORIES, st.integers(NEVER, 6), st.integers(1, 2))
def test_only_approvals_by_listed_keys_that_are_later_than_every_block_count(
    history: list[Decision], remembered: int, needed: int
) -> None:
    blocks = [each.at_unix_s for each in history if each.decision != "approve"]
    since = max([remembered, *blocks])
    expected = {
        each.steward
        for each in history
        if each.decision == "approve" and each.at_unix_s > since and each.steward in LISTED
    }
    found = standing(history, SUBJECT, LISTED, needed, remembered)
    assert found.approvals == expected
    assert found.is_approved == (len(expected) >= needed)
    assert found.blocked_unix_s == since
    assert (found.block is None) == (not blocks)


def test_a_block_counts_whoever_signed_it_and_ends_both_approvals() -> None:
    history = [said("anna", "approve", 1), said("ben", "approve", 2), said("eve", "reject", 3)]
    assert standing(history[:2], SUBJECT, LISTED, 2).is_approved
    assert standing(history, SUBJECT, LISTED, 2).approvals == frozenset()
    again = [*history, said("anna", "approve", 4)]
    assert not standing(again, SUBJECT, LISTED, 2).is_approved
    assert standing([*again, said("ben", "approve", 4)], SUBJECT, LISTED, 2).is_approved


def test_what_was_decided_over_another_study_or_site_is_no_matter() -> None:
    elsewhere = said("anna", "withdraw", 9, replace(SUBJECT, site="south"))
    another = said("anna", "withdraw", 9, replace(SUBJECT, study="0f" * 32))
    assert standing([APPROVAL, elsewhere, another], SUBJECT, LISTED, 1).is_approved
