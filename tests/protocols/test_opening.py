"""Opening canary keys after a corrupt sum: who is named, and what a coordinator gains that asks without need."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocols.federation import (
    DIM,
    NAMES,
    Federation,
    assert_still,
    fresh,
    identity,
    pads_of,
    policy,
    refusal,
    resigned,
    round_of,
    session_of,
    snapshot,
    terms,
    wire,
)

from synthfed.protocols.errors import LocalProtocolError
from synthfed.protocols.secagg import keys, ring, table
from synthfed.protocols.secagg.aggregator import SumCorrupt
from synthfed.protocols.secagg.blame import Finding
from synthfed.protocols.secagg.masks import apply_masks
from synthfed.protocols.secagg.messages import Masked, Open, Reveal, Revealed
from synthfed.protocols.study import Study

ZERO = np.zeros(DIM, dtype=np.int64)
ZEROS = dict.fromkeys(NAMES, ZERO)
NOTHING = np.empty(0, dtype=np.int64)
NO_KEY = bytes(32)
KINDS = ("steps", "wide", "probe")


@pytest.fixture
def active() -> Federation:
    return Federation().active()


def answers_of(federation: Federation, kind: str = "steps") -> dict[str, Masked]:
    """Return every site's honest answer to the aggregator's next round."""
    payload, values = (b"", NOTHING) if kind == "probe" else (b"w", ZERO)
    message = federation.aggregator.round(NAMES, kind, payload)
    return federation.answers(message, dict.fromkeys(NAMES, values))


def shifted(name: str, masked: Masked, part: str = "canary", by: int = 1) -> Masked:
    """Return an answer whose site added something to its first word, and signed it."""
    content = bytearray(getattr(masked, part))
    content[:4] = (int.from_bytes(content[:4], "little") + by & 0xFFFFFFFF).to_bytes(4, "little")
    return resigned(name, replace(masked, **{part: bytes(content)}))


def stated(name: str, revealed: Revealed, **wrong: bytes) -> Revealed:
    """Return an opening that states other keys for some peers, signed."""
    listed = tuple((peer, wrong.get(peer, key)) for peer, key in revealed.keys)
    changed = replace(revealed, keys=listed)
    return replace(changed, signature=keys.sign(identity(name), changed.signed(name)))


def corrupt(federation: Federation, answers: dict[str, Masked]) -> Reveal:
    """Let the aggregator find the sum of these answers corrupt, and return what it then asks."""
    federation.take(answers)
    with pytest.raises(SumCorrupt):
        federation.aggregator.total()
    return wire(federation.aggregator.reveal())


def openings(federation: Federation, request: Reveal) -> dict[str, Revealed]:
    return {name: wire(site.reveal(request)) for name, site in federation.sites.items()}


def judged(federation: Federation, opened: dict[str, Revealed]) -> Finding:
    for name, revealed in opened.items():
        federation.aggregator.add_revealed(name, revealed)
    found = federation.aggregator.judge()
    assert federation.aggregator.state is table.Aggregate.PAUSED
    return found


# Who is named.


@pytest.mark.parametrize("kind", KINDS)
def test_a_site_whose_canary_words_do_not_follow_from_its_own_keys_is_named(active: Federation, kind: str) -> None:
    answers = answers_of(active, kind)
    found = judged(active, openings(active, corrupt(active, answers | {"c": shifted("c", answers["c"])})))
    assert found == Finding(("c",), (), ())
    assert str(found) == "the canary words of c do not follow from its own keys: c deviates"


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_pair_with_different_keys_both_are_named_and_one_is_said_to_deviate(active: Federation, kind: str) -> None:
    session_of(active.sites["b"]).ratchets["d"] = keys.Ratchet(b"another key, from another agreement")
    found = judged(active, openings(active, corrupt(active, answers_of(active, kind))))
    assert found == Finding((), (("b", "d"),), ())
    assert str(found) == "b and d state different keys: one of the two deviates"


def test_a_site_that_holds_wrong_keys_for_all_stands_in_every_pair(active: Federation) -> None:
    for peer in "abde":
        session_of(active.sites["c"]).ratchets[peer] = keys.Ratchet(b"made up for " + peer.encode())
    found = judged(active, openings(active, corrupt(active, answers_of(active))))
    assert found == Finding((), (("a", "c"), ("b", "c"), ("c", "d"), ("c", "e")), ())


def test_a_site_that_adds_to_its_masked_vector_leaves_canaries_that_are_accounted_for(active: Federation) -> None:
    answers = answers_of(active)
    found = judged(
        active, openings(active, corrupt(active, answers | {"c": shifted("c", answers["c"], "words", 2**30)}))
    )
    assert found == Finding((), (), ())
    assert "a site whose vector is beyond what clipping and noise allow, or the coordinator" in str(found)


@pytest.mark.parametrize("peer", ["a", "d"])
def test_a_site_that_lies_in_the_opening_to_accuse_another_names_itself_alone(active: Federation, peer: str) -> None:
    answers = answers_of(active)
    opened = openings(active, corrupt(active, answers | {"c": shifted("c", answers["c"])}))
    found = judged(active, opened | {"c": stated("c", opened["c"], **{peer: NO_KEY})})
    assert found == Finding(("c",), (), ())


def test_a_site_that_lies_only_in_the_opening_is_named_beside_the_one_that_failed(active: Federation) -> None:
    answers = answers_of(active)
    opened = openings(active, corrupt(active, answers | {"c": shifted("c", answers["c"])}))
    found = judged(active, opened | {"e": stated("e", opened["e"], a=NO_KEY)})
    assert found == Finding(("c", "e"), (), ())
    assert str(found).count("deviates") == 2


def test_two_sites_that_exchange_the_keys_they_state_are_both_named(active: Federation) -> None:
    answers = answers_of(active)
    opened = openings(active, corrupt(active, answers | {"c": shifted("c", answers["c"])}))
    lie = {name: stated(name, opened[name], b=NO_KEY, d=NO_KEY) for name in "bd"}
    assert judged(active, opened | lie).sites == ("b", "c", "d")


def test_who_does_not_open_is_named_as_that_and_the_others_are_compared(active: Federation) -> None:
    answers = answers_of(active)
    opened = openings(active, corrupt(active, answers | {"c": shifted("c", answers["c"])}))
    assert "opens keys that were not asked for" in refusal(lambda: active.aggregator.add_revealed("b", other("b")))
    del opened["b"], opened["e"]
    found = judged(active, opened)
    assert found == Finding(("c",), (), ("b", "e"))
    assert str(found).endswith("b did not open its canary keys; e did not open its canary keys")


def other(name: str) -> Revealed:
    unsigned = Revealed(bytes(32), (), bytes(64))
    return replace(unsigned, signature=keys.sign(identity(name), unsigned.signed(name)))


@settings(deadline=None)  # every example shakes hands
@given(
    liars=st.dictionaries(
        st.sampled_from(NAMES), st.sets(st.sampled_from(("canary", "words", "opening", "keys", "silence"))), max_size=4
    ),
    peer=st.sampled_from(NAMES),
)
def test_no_honest_site_is_ever_named_alone_or_beside_another_honest_one(liars: dict[str, set[str]], peer: str) -> None:
    federation = Federation().active()
    for name, ways in liars.items():
        if "keys" in ways and name != peer:
            session_of(federation.sites[name]).ratchets[peer] = keys.Ratchet(b"of no agreement")
    answers = answers_of(federation)
    for name, ways in liars.items():
        for part in ways & {"canary", "words"}:
            answers[name] = shifted(name, answers[name], part, 2**30)
    federation.take(answers)
    try:
        federation.aggregator.total()
    except SumCorrupt:
        pass
    else:
        return
    opened = openings(federation, federation.aggregator.reveal())
    for name, ways in liars.items():
        if "opening" in ways:
            opened[name] = stated(name, opened[name], **{peer: NO_KEY})
        if "silence" in ways:
            del opened[name]
    found = judged(federation, opened)
    assert {*found.sites, *found.silent} <= liars.keys()
    assert all(liars.keys() & {*pair} for pair in found.pairs)
    if not any(ways & {"words", "silence"} for ways in liars.values()):
        assert found.sites or found.pairs  # then it was the canaries, and whoever spoilt them has opened


def test_only_a_corrupt_sum_is_followed_by_a_request_and_only_the_cohort_is_heard(active: Federation) -> None:
    aggregator = active.aggregator
    with pytest.raises(LocalProtocolError, match="only after a sum that was corrupt"):
        aggregator.reveal()
    active.take(answers_of(active))
    aggregator.total()
    with pytest.raises(LocalProtocolError, match="only after a sum that was corrupt"):
        aggregator.reveal()
    with pytest.raises(LocalProtocolError, match="JUDGED cannot happen in state ACTIVE"):
        aggregator.judge()
    with pytest.raises(LocalProtocolError, match="no round has been sent"):
        Federation().active().aggregator.add_revealed("a", other("a"))


def test_in_a_smaller_cohort_only_its_pairs_are_opened(active: Federation) -> None:
    message = active.aggregator.round(NAMES[:4], "steps", b"")
    answers = active.answers(message, ZEROS)
    request = corrupt(active, answers | {"a": shifted("a", answers["a"])})
    assert "REVEAL is not allowed in state ACTIVE" in refusal(lambda: active.sites["e"].reveal(request))
    opened = {name: active.sites[name].reveal(request) for name in NAMES[:4]}
    assert [peer for peer, _ in opened["b"].keys] == ["a", "c", "d"]
    assert judged(active, opened) == Finding(("a",), (), ())


def test_an_opening_also_works_under_the_other_cipher() -> None:
    study = Study.model_validate(terms() | {"aggregation": {"mask_cipher": "chacha20"}})
    active = Federation(pinned=policy(study)).active()
    answers = answers_of(active)
    found = judged(active, openings(active, corrupt(active, answers | {"d": shifted("d", answers["d"])})))
    assert found.sites == ("d",)


# What a site tells, and when.


def test_a_site_opens_the_round_it_answered_last_once_and_forgets_the_keys(active: Federation) -> None:
    site, message = active.sites["a"], round_of()
    masked = active.answer("a", message, ZERO)
    kept = dict(session_of(site).canaries)
    revealed = site.reveal(Reveal(masked.context))
    assert revealed.keys == tuple(sorted(kept.items()))
    assert [peer for peer, _ in revealed.keys] == list(NAMES[1:])
    keys.verify(active.policy.study.cohort.keys["a"], revealed.signed("a"), revealed.signature, peer="a")
    assert session_of(site).canaries == {}
    assert_still(
        site, table.Site.REVEALED, lambda: site.reveal(Reveal(masked.context)), says="REVEAL is not allowed in state"
    )
    assert site.repeated(message) == masked  # the same bytes as before, and nothing new


@pytest.mark.parametrize("context", ["none", "earlier", "next"])
def test_a_site_opens_no_other_context(active: Federation, context: str) -> None:
    site = active.sites["a"]
    earlier = active.answer("a", round_of(1), ZERO)
    active.answer("a", round_of(2), ZERO)
    asked = {
        "none": bytes(32),
        "earlier": earlier.context,
        "next": round_of(3).context(site.transcript),
    }[context]
    assert_still(site, table.Site.SENT, lambda: site.reveal(Reveal(asked)), says="not those of the masked round")


def test_a_round_that_was_given_up_is_not_opened(active: Federation) -> None:
    site = active.sites["a"]
    late = active.answer("a", round_of(1), ZERO)
    site.abandon()
    assert session_of(site).canaries == {}
    assert_still(site, table.Site.ACTIVE, lambda: site.reveal(Reveal(late.context)), says="not allowed in state ACTIVE")


def test_while_a_round_is_computed_nothing_is_opened(active: Federation) -> None:
    site = active.sites["a"]
    accepted = site.accept(round_of())
    site.commit(accepted)
    assert_still(
        site, table.Site.COMMITTED, lambda: site.reveal(Reveal(accepted.context)), says="not allowed in state COMMITTED"
    )


@pytest.mark.parametrize("end", ["another round", "a new session", "no request"])
def test_canary_keys_are_gone_with_the_next_round_a_new_session_or_the_end_of_this_one(
    active: Federation, end: str
) -> None:
    site = active.sites["a"]
    active.answer("a", round_of(1), ZERO)
    session = session_of(site)
    kept = set(session.canaries.values())
    assert len(kept) == 4
    if end == "another round":
        site.commit(site.accept(round_of(2)))
        assert kept.isdisjoint(session.canaries.values())
        return
    if end == "a new session":
        site.hello(Open(bytes(32)), fresh("a"))
        assert session_of(site).canaries == {}
    else:
        site.close()
        assert site._session is None


def test_where_nothing_is_masked_there_is_nothing_to_open() -> None:
    study = Study.model_validate(terms(mode="local") | {"aggregation": {"combine": "median"}})
    active = Federation(pinned=policy(study)).active()
    masked = active.answer("a", round_of(), ZERO)
    site = active.sites["a"]
    assert_still(
        site, table.Site.SENT, lambda: site.reveal(Reveal(masked.context)), says="not those of the masked round"
    )


# A coordinator that asks without a failure gains nothing.


def test_opening_without_need_changes_no_other_key_and_later_sums_are_as_ever(active: Federation) -> None:
    values = {name: np.arange(DIM, dtype=np.int64) * place for place, name in enumerate(NAMES)}
    for _ in range(3):
        active.take(active.answers(active.aggregator.round(NAMES, "steps", b"w"), values))
        np.testing.assert_array_equal(active.aggregator.total(), sum(values.values()))
        for site in active.sites.values():
            before = snapshot(site)
            site.reveal(Reveal(session_of(site).context))
            after = snapshot(site)
            changed = {name for name, value in before.items() if after[name] != value}
            assert changed == {"state", "canaries"}  # ratchets, counter and what was sent stand where they stood


def test_an_opened_key_is_neither_a_mask_key_nor_a_seed_nor_a_ratchet_of_any_round(active: Federation) -> None:
    others: set[bytes] = set()
    opened: set[bytes] = set()
    for counter in (1, 2, 3):
        for site in active.sites.values():
            accepted = site.accept(round_of(counter))
            seeds = site.commit(accepted)
            others |= {seeds.sample, seeds.noise, *(key for key, _ in pads_of(site, accepted.round).values())}
            others |= {bytes(ratchet._key) for ratchet in session_of(site).ratchets.values()}
            site.mask(accepted, ZERO)
            opened |= {key for _, key in site.reveal(Reveal(accepted.context)).keys}
    assert len(opened) == 3 * 10  # one for each pair and round, the same from both ends
    assert opened.isdisjoint(others)


def test_with_all_canary_keys_of_all_sites_a_single_masked_sum_is_as_uniform_as_without() -> None:
    """Chi-square over 16 cells: 60 at 15 degrees of freedom is passed once in 4 million draws; 25 draws."""
    dim = 4096
    federation = Federation(pinned=policy(dim=dim)).active()
    values = dict.fromkeys(NAMES, np.arange(dim, dtype=np.int64))
    answers = federation.answers(federation.aggregator.round(NAMES, "steps", b"w"), values)
    opened = {name: dict(site.reveal(Reveal(answers[name].context)).keys) for name, site in federation.sites.items()}
    for name, masked in answers.items():
        words = ring.from_bytes(masked.words, dim, 32, peer=name).copy()
        for pads in ({}, *({peer: key} for peer, key in opened[name].items())):
            stripped = words.copy()
            apply_masks(stripped, [(key, peer < name) for peer, key in pads.items()])
            counts = np.bincount(stripped >> 28, minlength=16)
            assert ((counts - dim / 16) ** 2 / (dim / 16)).sum() < 60
        apply_masks(words, [(key, peer < name) for peer, key in opened[name].items()])
        assert np.abs(ring.centred(words) - values[name]).max() > 2**24
