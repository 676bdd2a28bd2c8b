"""A site's machine against coordinators and peers that lie."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from tests.protocols import federation as fed
from tests.protocols.federation import (
    DIM,
    NAMES,
    Federation,
    assert_still,
    fresh,
    refusal,
    round_of,
    session_of,
    signed_confirm,
    signed_hello,
    snapshot,
)

from synthfed.protocols.errors import LocalProtocolError
from synthfed.protocols.secagg import keys, table
from synthfed.protocols.secagg.messages import Hello, Open, Roll, Seal
from synthfed.protocols.secagg.site import COUNTER_WINDOW, JOURNAL_STRIDE

ZERO = np.zeros(DIM, dtype=np.int64)
NOTHING = np.empty(0, dtype=np.int64)


@pytest.fixture
def active() -> Federation:
    return Federation().active()


def swap(roll: Roll, site: str, change: Callable[[Hello], Hello]) -> Roll:
    return Roll(tuple(change(hello) if hello.site == site else hello for hello in roll.hellos))


# The handshake.


def test_an_honest_handshake_activates_every_site_under_one_transcript(active: Federation) -> None:
    assert {site.state for site in active.sites.values()} == {table.Site.ACTIVE}
    assert len({site.transcript for site in active.sites.values()}) == 1


def test_every_pair_shares_a_key_and_no_two_pairs_share_one(active: Federation) -> None:
    found: dict[frozenset[str], set[bytes]] = {}
    for name, site in active.sites.items():
        for peer, ratchet in session_of(site).ratchets.items():
            found.setdefault(frozenset((name, peer)), set()).add(ratchet.derive("test", b""))
    assert [len(shared) for shared in found.values()] == [1] * 10
    assert len(set.union(*found.values())) == 10


@pytest.mark.parametrize("field", ["x25519", "kem", "nonce", "journal_head"])
def test_a_swapped_key_or_field_in_the_roll_is_refused(field: str) -> None:
    federation = Federation()
    roll = federation.roll()
    other = fresh("b").ephemeral.public
    change: dict[str, Any] = {field: {"x25519": other[0], "kem": other[1]}.get(field, bytes([9]) * 32)}
    forged = swap(roll, "b", lambda hello: replace(hello, **change))
    site = federation.sites["a"]
    assert_still(site, table.Site.HELLO, lambda: site.confirm(forged, {}), says="b: a signature does not verify")


def test_a_peers_key_signed_by_another_site_of_the_roster_is_refused() -> None:
    federation = Federation()
    forged = swap(federation.roll(), "b", lambda hello: signed_hello(hello, "e", federation.policy.hash))
    site = federation.sites["a"]
    assert_still(site, table.Site.HELLO, lambda: site.confirm(forged, {}), says="b: a signature does not verify")


def test_a_roll_with_other_keys_for_this_site_is_refused_even_when_its_own_key_signed_them() -> None:
    federation = Federation()
    forged = swap(
        federation.roll(),
        "a",
        lambda hello: signed_hello(hello, "a", federation.policy.hash, x25519=fresh("a").ephemeral.public[0]),
    )
    site = federation.sites["a"]
    assert_still(site, table.Site.HELLO, lambda: site.confirm(forged, {}), says="this site's own Hello")


def test_a_roll_without_this_site_is_refused() -> None:
    federation = Federation()
    forged = Roll(tuple(hello for hello in federation.roll().hellos if hello.site != "a"))
    site = federation.sites["a"]
    assert_still(site, table.Site.HELLO, lambda: site.confirm(forged, {}), says="this site's own Hello")


def test_a_sybil_from_outside_the_roster_is_refused() -> None:
    federation = Federation()
    roll = federation.roll()
    stranger = signed_hello(roll.hellos[1], "z", federation.policy.hash, site="z", x25519=bytes(32), kem=bytes(1184))
    site = federation.sites["a"]
    sybil = Roll((*roll.hellos, stranger))
    assert_still(site, table.Site.HELLO, lambda: site.confirm(sybil, {}), says="outside the roster")


def test_a_site_listed_twice_in_the_roll_is_refused() -> None:
    federation = Federation()
    roll = federation.roll()
    site = federation.sites["a"]
    twice = Roll((*roll.hellos, roll.hellos[2]))
    assert_still(site, table.Site.HELLO, lambda: site.confirm(twice, {}), says="names a site twice")


@pytest.mark.parametrize("field", ["x25519", "kem"])
def test_two_sites_with_one_session_key_are_refused(field: str) -> None:
    federation = Federation()
    roll = federation.roll()
    shared = {field: getattr(roll.hellos[2], field)}
    forged = swap(roll, "b", lambda hello: signed_hello(hello, "b", federation.policy.hash, **shared))
    site = federation.sites["a"]
    assert_still(site, table.Site.HELLO, lambda: site.confirm(forged, {}), says="share a key")


def test_a_roll_below_the_quorum_is_refused() -> None:
    federation = Federation()
    small = Roll(federation.roll().hellos[:3])
    site = federation.sites["a"]
    assert_still(site, table.Site.HELLO, lambda: site.confirm(small, {}), says="below the quorum")


def test_policy_drift_at_one_site_makes_the_handshake_fail_at_the_aggregator_and_at_every_peer() -> None:
    other_study = fed.study_of(epsilon=2.5)
    for drifted in (fed.policy(code=b"other code"), fed.policy(other_study)):
        federation = Federation(drifted={"b": drifted})
        hellos = federation.hellos()
        assert "b: a signature does not verify" in refusal(lambda: federation.aggregator.add_hello("b", hellos["b"]))  # noqa: B023
        roll = Roll(tuple(hellos.values()))
        for name in "acde":
            assert "b: a signature does not verify" in refusal(lambda: federation.sites[name].confirm(roll, {}))  # noqa: B023
        assert "a signature does not verify" in refusal(lambda: federation.sites["b"].confirm(roll, {}))  # noqa: B023


def test_a_hello_replayed_from_another_session_is_refused() -> None:
    federation = Federation()
    federation.aggregator = type(federation.aggregator)(federation.policy, bytes(32))
    old = federation.hellos()["b"]
    federation.aggregator = type(federation.aggregator)(federation.policy, fed.SESSION)
    assert "not for this session" in refusal(lambda: federation.aggregator.add_hello("b", old))
    replayed = swap(federation.roll(), "b", lambda _: old)
    site = federation.sites["a"]
    assert_still(site, table.Site.HELLO, lambda: site.confirm(replayed, {}), says="another session")


def test_a_confirm_signature_cannot_pass_for_a_hello() -> None:
    federation = Federation()
    roll = federation.roll()
    confirm = federation.sites["b"].confirm(roll, {})
    forged = swap(roll, "b", lambda hello: replace(hello, signature=confirm.signature))
    site = federation.sites["a"]
    assert_still(site, table.Site.HELLO, lambda: site.confirm(forged, {}), says="a signature does not verify")


def test_a_rolled_back_journal_is_refused_and_an_equal_one_taken() -> None:
    federation = Federation()
    roll = swap(
        federation.roll(), "b", lambda hello: signed_hello(hello, "b", federation.policy.hash, journal_length=41)
    )
    site = federation.sites["a"]
    rolled_back = "the journal of b is shorter than before"
    assert_still(site, table.Site.HELLO, lambda: site.confirm(roll, {"b": 42}), says=rolled_back)
    assert site.confirm(roll, {"b": 41, "z": 99}).site == "a"


@pytest.mark.parametrize("floor", [0, 41])
def test_a_journal_that_leapt_is_refused_and_one_at_the_edge_taken(floor: int) -> None:
    federation = Federation()
    honest, site = federation.roll(), federation.sites["a"]
    floors = {"b": floor} if floor else {}

    def leapt(length: int) -> Roll:
        return swap(honest, "b", lambda hello: signed_hello(hello, "b", federation.policy.hash, journal_length=length))

    too_long = "the journal of b is longer than before by more than a ledger can grow"
    for roll in (leapt(floor + JOURNAL_STRIDE + 1), leapt(2**62)):
        assert_still(site, table.Site.HELLO, partial(site.confirm, roll, floors), says=too_long)
    assert site.confirm(leapt(floor + JOURNAL_STRIDE), floors).site == "a"


@pytest.mark.parametrize(
    ("kem", "says"),
    [
        (bytes([255]) * 1184, "b: its ML-KEM public key is malformed"),
        (bytes(1183), "a Hello has not the keys of the study's key agreement"),
    ],
)
def test_a_malformed_kem_public_key_is_refused(kem: bytes, says: str) -> None:
    federation = Federation()
    roll = swap(federation.roll(), "b", lambda hello: signed_hello(hello, "b", federation.policy.hash, kem=kem))
    site = federation.sites["a"]
    assert_still(site, table.Site.HELLO, lambda: site.confirm(roll, {}), says=says)


LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]
"""All of them: the order of five divides 8 on the curve or its twist; 0 and 1 have a second spelling."""
TOP_BIT_SET = [point[:31] + bytes([point[31] | 0x80]) for point in LOW_ORDER]  # which X25519 ignores


@pytest.mark.parametrize("point", [*LOW_ORDER, *TOP_BIT_SET, b"", bytes(31), bytes(33), b"\1" * 31, b"\1" * 33])
def test_an_x25519_point_of_low_order_or_wrong_length_is_refused(point: bytes) -> None:
    federation = Federation()
    roll = swap(federation.roll(), "b", lambda hello: signed_hello(hello, "b", federation.policy.hash, x25519=point))
    hello = roll.hellos[1]
    session_of(federation.sites["b"]).hello = hello  # the lying site itself goes along with its own key
    confirms = federation.confirms(roll)
    site = federation.sites["a"]
    seal = Seal(tuple(confirms.values()))
    assert_still(site, table.Site.KEYED, lambda: site.activate(seal), says="b: its X25519 public key is malformed")


def lying_seal(federation: Federation, liar: str, **changes: object) -> Seal:
    """Return S3 in which one site confirms, under its own signature, something else than it should."""
    confirms = federation.confirms(federation.roll())
    confirms[liar] = signed_confirm(confirms[liar], liar, **changes)
    return Seal(tuple(confirms.values()))


def test_a_missing_kem_ciphertext_is_refused() -> None:
    federation = Federation()
    seal = lying_seal(federation, "a", ciphertexts=())
    site = federation.sites["c"]
    assert_still(site, table.Site.KEYED, lambda: site.activate(seal), says="the ciphertexts of a are not those of")


def test_another_kem_ciphertext_gives_the_pair_different_keys() -> None:
    federation = Federation()
    confirms = federation.confirms(federation.roll())
    forged = tuple((site, bytes(1088)) for site, _ in confirms["a"].ciphertexts)
    honest = Seal(tuple(confirms.values()))
    confirms["a"] = signed_confirm(confirms["a"], "a", ciphertexts=forged)
    federation.sites["a"].activate(honest)
    federation.sites["b"].activate(Seal(tuple(confirms.values())))
    one, other = (session_of(federation.sites[name]).ratchets[peer] for name, peer in ("ab", "ba"))
    assert one.derive("test", b"") != other.derive("test", b"")


def test_a_confirmation_of_another_transcript_is_refused() -> None:
    federation = Federation()
    seal = lying_seal(federation, "d", transcript=bytes(32))
    site = federation.sites["a"]
    assert_still(site, table.Site.KEYED, lambda: site.activate(seal), says="d confirmed another transcript")


def test_equivocation_on_the_roll_is_found_before_any_key_is_used() -> None:
    federation = Federation()
    roll = federation.roll()
    shorter = Roll(roll.hellos[:4])
    views = {"a": roll, "b": shorter, "c": shorter, "d": roll, "e": roll}
    confirms = tuple(federation.sites[name].confirm(view, {}) for name, view in views.items())
    assert "another transcript" in refusal(lambda: federation.sites["a"].activate(Seal(confirms)))
    assert "another transcript" in refusal(lambda: federation.sites["b"].activate(Seal(confirms[:4])))


def test_a_seal_that_lacks_a_site_doubles_one_or_changes_this_sites_own_is_refused() -> None:
    federation = Federation()
    confirms = tuple(federation.confirms(federation.roll()).values())
    site = federation.sites["a"]
    exactly = "does not confirm exactly the roll"
    assert_still(site, table.Site.KEYED, lambda: site.activate(Seal(confirms[:4])), says=exactly)
    assert_still(site, table.Site.KEYED, lambda: site.activate(Seal((*confirms, confirms[1]))), says=exactly)
    other = Seal((signed_confirm(confirms[0], "a", ciphertexts=()), *confirms[1:]))
    assert_still(site, table.Site.KEYED, lambda: site.activate(other), says="this site's own confirmation")


def test_a_confirmation_with_a_wrong_signature_is_refused() -> None:
    federation = Federation()
    confirms = federation.confirms(federation.roll())
    confirms["b"] = signed_confirm(confirms["b"], "c")
    site = federation.sites["a"]
    seal = Seal(tuple(confirms.values()))
    assert_still(site, table.Site.KEYED, lambda: site.activate(seal), says="b: a signature does not verify")


def test_a_new_session_overwrites_and_forgets_every_key_of_the_old_one(active: Federation) -> None:
    site = active.sites["a"]
    old = session_of(site)
    assert site.transcript == old.transcript != b""
    site.hello(Open(bytes(32)), fresh("a"))
    assert [bytes(ratchet._key) for ratchet in (old.own, *old.ratchets.values())] == [bytes(32)] * 5
    assert site.transcript == b""
    assert session_of(site).ratchets == {}


def test_ephemeral_keys_and_kem_secrets_are_dropped_once_the_session_is_active(active: Federation) -> None:
    for site in active.sites.values():
        assert session_of(site).fresh is None
        assert session_of(site).encapsulated == {}


# Rounds.


@pytest.mark.parametrize(
    "cohort",
    [
        ("b", "a", "c", "d"),
        ("a", "b", "b", "c", "d"),
        ("a", "b", "c", "d", "z"),
        ("b", "c", "d", "e"),
        (),
    ],
    ids=["unsorted", "duplicates", "a stranger", "without this site", "empty"],
)
def test_a_malformed_cohort_is_refused(active: Federation, cohort: tuple[str, ...]) -> None:
    site = active.sites["a"]
    message = round_of(cohort=cohort)
    assert_still(site, table.Site.ACTIVE, lambda: site.accept(message), says="the cohort is not a sorted part")


def test_a_cohort_below_the_quorum_is_refused(active: Federation) -> None:
    site = active.sites["a"]
    message = round_of(cohort=("a", "b", "c"))
    assert_still(site, table.Site.ACTIVE, lambda: site.accept(message), says="below the quorum")


def test_a_site_of_the_roster_that_is_not_in_the_session_makes_a_cohort_malformed() -> None:
    federation = Federation(NAMES[:4]).active()
    site = federation.sites["a"]
    assert_still(site, table.Site.ACTIVE, lambda: site.accept(round_of()), says="not a sorted part of the session")


def test_a_counter_that_stands_turns_back_or_jumps_beyond_the_window_is_refused(active: Federation) -> None:
    active.answer("a", round_of(5), ZERO)
    site = active.sites["a"]
    for counter in (0, 4, 5, 5 + COUNTER_WINDOW, 2**64 - 1):
        message = round_of(counter, payload=b"new")
        assert_still(site, table.Site.SENT, lambda: site.accept(message), says="the counter is not ahead")  # noqa: B023
    assert site.accept(round_of(5 + COUNTER_WINDOW - 1)).round.counter == 4 + COUNTER_WINDOW


def test_an_unknown_kind_and_a_probe_with_a_payload_are_refused(active: Federation) -> None:
    site = active.sites["a"]
    for message in (round_of(kind="unknown"), round_of(kind="probe", payload=b"x")):
        assert_still(site, table.Site.ACTIVE, lambda: site.accept(message), says="not in the study's plan")  # noqa: B023


def test_the_same_round_again_returns_identical_bytes_and_changes_nothing(active: Federation) -> None:
    sent = active.answer("a", round_of(), ZERO)
    site = active.sites["a"]
    before = snapshot(site)
    assert site.repeated(round_of()) == sent
    assert snapshot(site) == before


def test_another_payload_kind_or_cohort_under_the_same_counter_is_never_answered(active: Federation) -> None:
    active.answer("a", round_of(), ZERO)
    site = active.sites["a"]
    for message in (round_of(payload=b"x"), round_of(kind="other"), round_of(cohort=NAMES[:4])):
        assert site.repeated(message) is None
        assert_still(site, table.Site.SENT, lambda: site.accept(message), says="the counter is not ahead")  # noqa: B023


def test_nothing_is_repeated_before_something_was_sent_or_after_the_next_commit(active: Federation) -> None:
    site = active.sites["a"]
    assert site.repeated(round_of()) is None
    active.answer("a", round_of(), ZERO)
    site.commit(site.accept(round_of(2)))
    assert site.repeated(round_of()) is None
    assert site.repeated(round_of(2)) is None


def test_accepting_a_round_changes_nothing_so_that_the_charge_can_come_first(active: Federation) -> None:
    site = active.sites["a"]
    before = snapshot(site)
    accepted = site.accept(round_of())
    assert accepted.kind is not None
    assert snapshot(site) == before


def test_a_round_accepted_before_another_was_committed_can_no_longer_be_committed(active: Federation) -> None:
    site = active.sites["a"]
    stale = site.accept(round_of(1))
    active.answer("a", round_of(2), ZERO)
    with pytest.raises(LocalProtocolError, match="cannot turn back"):
        site.commit(stale)


def test_there_is_no_mask_without_a_commit(active: Federation) -> None:
    site = active.sites["a"]
    accepted = site.accept(round_of())
    with pytest.raises(LocalProtocolError, match="MASKED cannot happen in state ACTIVE"):
        site.mask(accepted, ZERO)
    site.commit(site.accept(round_of(2)))
    with pytest.raises(LocalProtocolError, match="only the committed round"):
        site.mask(accepted, ZERO)
    assert site.state is table.Site.COMMITTED


def test_no_sum_is_masked_twice(active: Federation) -> None:
    site = active.sites["a"]
    accepted = site.accept(round_of())
    site.commit(accepted)
    site.mask(accepted, ZERO)
    with pytest.raises(LocalProtocolError, match="MASKED cannot happen in state SENT"):
        site.mask(accepted, ZERO)


def test_an_abandoned_round_leaves_no_keys_and_its_counter_is_burnt(active: Federation) -> None:
    site = active.sites["a"]
    accepted = site.accept(round_of())
    site.commit(accepted)
    site.abandon()
    assert site.state is table.Site.ACTIVE
    assert session_of(site).masks == []
    with pytest.raises(LocalProtocolError, match="MASKED cannot happen in state ACTIVE"):
        site.mask(accepted, ZERO)
    assert "the counter is not ahead" in refusal(lambda: site.accept(round_of()))
    assert site.repeated(round_of()) is None
    assert site.accept(round_of(2))


def test_seeds_differ_between_purposes_sites_counters_and_payloads(active: Federation) -> None:
    seen = []
    for name in "ab":
        site = active.sites[name]
        for message in (round_of(1), round_of(2)):
            accepted = site.accept(message)
            seeds = site.commit(accepted)
            site.mask(accepted, ZERO)
            seen += [seeds.sample, seeds.noise]
    assert len(set(seen)) == len(seen)


def test_a_restored_snapshot_repeats_its_seeds_for_the_same_round_only() -> None:
    seeds = []
    for payload in (b"one", b"one", b"two"):
        site = Federation().active().sites["a"]
        session = session_of(site)
        session.own, session.transcript = keys.Ratchet(bytes(32)), bytes(32)  # the same machine image every time
        seeds.append(site.commit(site.accept(round_of(payload=payload))))
    assert seeds[0] == seeds[1]
    assert {seeds[0].sample, seeds[0].noise}.isdisjoint({seeds[2].sample, seeds[2].noise})


def test_after_masking_no_key_of_the_round_is_left_and_the_ratchets_stand_ahead(active: Federation) -> None:
    active.answer("a", round_of(3), ZERO)
    site = active.sites["a"]
    assert session_of(site).masks == []
    session = session_of(site)
    assert {ratchet._counter for ratchet in (session.own, *session.ratchets.values())} == {4}


def test_a_probe_masks_canaries_only_and_is_not_of_any_kind(active: Federation) -> None:
    masked = active.answer("a", round_of(kind="probe", payload=b""), NOTHING)
    assert masked.words == b""
    assert len(masked.canary) == 32
