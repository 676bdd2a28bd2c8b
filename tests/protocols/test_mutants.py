"""Small changes of secure aggregation that no other test noticed; how they are found is told in docs/mutation.md."""

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import integrate, stats  # type: ignore[import-untyped]
from tests.protocols import federation as fed
from tests.protocols.federation import (
    DIM,
    NAMES,
    Federation,
    assert_still,
    fresh,
    policy,
    refusal,
    resigned,
    round_of,
    session_of,
    signed_confirm,
    signed_hello,
    snapshot,
    study_of,
)

from synthfed.protocols.ids import digest
from synthfed.protocols.secagg import keys, table
from synthfed.protocols.secagg.aggregator import SumCorrupt
from synthfed.protocols.secagg.combination import combine, noise_factor
from synthfed.protocols.secagg.masks import apply_masks
from synthfed.protocols.secagg.messages import Round, Seal
from synthfed.protocols.secagg.site import COUNTER_WINDOW, Seeds
from synthfed.protocols.secagg.suites import SUITES
from synthfed.protocols.sums import GRID

Vector = npt.NDArray[np.int64]
ZERO = np.zeros(DIM, dtype=np.int64)
NOTHING = np.empty(0, dtype=np.int64)
LEAST, GREATEST = bytes(32), b"\xff" * 32  # of all hashes and session names


@pytest.fixture
def active() -> Federation:
    return Federation().active()


def local(**aggregation: Any) -> Federation:
    return Federation(pinned=policy(study_of(mode="local", aggregation=aggregation))).active()


# What one sum, and the sum of all, can reach.

LARGEST = 64 * GRID  # in `local`: 64 slots at the clip norm of 1, in steps of 2**-18


def entry_reach(sites: int) -> float:
    return sites * LARGEST + 16 * GRID * math.sqrt(sites)


def norm_reach(sites: int) -> float:
    return sites * LARGEST + (math.sqrt(DIM) + 16) * GRID * math.sqrt(sites)


def spike(size: int) -> Vector:
    values = ZERO.copy()
    values[2] = size
    return values


def level(sites: int, norm: float) -> Vector:
    """Return a vector of that norm, all of whose entries are alike."""
    return np.full(DIM, math.floor(norm / math.sqrt(DIM)), dtype=np.int64)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_vector_that_just_fits_is_taken_and_one_step_more_leaves_its_site_out(sign: int) -> None:
    seen = local(combine="median")
    top = math.floor(entry_reach(1))
    assert top == entry_reach(1)  # the bound itself can be met
    flat = level(1, norm_reach(1))
    for fits, exceeds in ((spike(sign * top), spike(sign * (top + 1))), (sign * flat, sign * (flat + 1))):
        message = seen.aggregator.round(NAMES, "steps", b"")
        seen.aggregator.add_masked("a", seen.answer("a", message, fits))
        refused = seen.answer("b", message, exceeds)
        assert "b: its vector is larger" in refusal(lambda: seen.aggregator.add_masked("b", refused))  # noqa: B023
        assert set(seen.aggregator._masked) == {"a"}
        seen.aggregator.give_up()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("cohort", [NAMES, NAMES[:4]])
def test_a_sum_that_just_fits_is_taken_and_one_step_more_pauses_the_study(cohort: tuple[str, ...], sign: int) -> None:
    sites = len(cohort)
    top, flat = math.floor(entry_reach(sites)), level(sites, norm_reach(sites))
    for fits, exceeds in ((spike(sign * top), spike(sign * (top + 1))), (sign * flat, sign * (flat + 1))):
        federation = local()
        for values in (fits, exceeds):
            message = federation.aggregator.round(cohort, "steps", b"")
            federation.collect(message, dict.fromkeys(cohort, ZERO) | {"c": values})
            if values is fits:
                np.testing.assert_array_equal(federation.aggregator.total(), fits)
        with pytest.raises(SumCorrupt):
            federation.aggregator.total()


def test_a_norm_that_is_met_exactly_is_taken() -> None:
    """In four dimensions the norm of four alike entries, and the bound for one site, are whole."""
    study = study_of(mode="local", aggregation={"combine": "median"})
    seen = Federation(pinned=policy(study, dim=4)).active()
    message = seen.aggregator.round(NAMES, "steps", b"")
    entry = (LARGEST + (2 + 16) * GRID) // 2
    seen.aggregator.add_masked("a", seen.answer("a", message, np.full(4, entry, dtype=np.int64)))
    refused = seen.answer("b", message, np.full(4, entry + 1, dtype=np.int64))
    assert "larger than clipping" in refusal(lambda: seen.aggregator.add_masked("b", refused))


@pytest.mark.parametrize("canary", [0, 2])
def test_canaries_that_add_up_to_less_or_more_than_the_cohort_pause_the_study(active: Federation, canary: int) -> None:
    active.collect(active.aggregator.probe(NAMES), dict.fromkeys(NAMES, NOTHING))
    honest = active.aggregator._masked["c"]
    words = np.frombuffer(honest.canary, dtype="<u4").copy()
    words[-1:] += np.uint32((canary - 1) % 2**32)  # in place of 1
    active.aggregator.add_masked("c", resigned("c", replace(honest, canary=words.tobytes())))
    with pytest.raises(SumCorrupt):
        active.aggregator.total()


@pytest.mark.parametrize("word", [0, 2])
def test_a_canary_word_below_or_above_one_leaves_its_site_out_where_nothing_is_masked(word: int) -> None:
    seen = local(combine="median")
    honest = seen.answer("c", seen.aggregator.round(NAMES, "steps", b""), ZERO)
    words = np.ones(8, dtype="<u4")
    words[-1] = word
    forged = resigned("c", replace(honest, canary=words.tobytes()))
    assert "canary words" in refusal(lambda: seen.aggregator.add_masked("c", forged))
    seen.aggregator.add_masked("c", honest)


# The aggregator takes only what it waits for.


def test_a_session_starts_at_counter_one_and_lower_ones_are_refused() -> None:
    federation = Federation().active()
    assert federation.aggregator.round(NAMES, "steps", b"").counter == 1
    for counter in (0, -1):
        assert "not ahead" in refusal(lambda: federation.sites["a"].accept(round_of(counter)))  # noqa: B023


@pytest.mark.parametrize("other", [LEAST, GREATEST])
def test_messages_of_lesser_and_greater_sessions_transcripts_and_contexts_are_refused(other: bytes) -> None:
    federation = Federation()
    hellos = federation.hellos()
    strange = signed_hello(hellos["c"], "c", federation.policy.hash, session=other)
    assert "not for this session" in refusal(lambda: federation.aggregator.add_hello("c", strange))
    for name, hello in hellos.items():
        federation.aggregator.add_hello(name, hello)
    confirms = federation.confirms(federation.aggregator.roll())
    wrong = signed_confirm(confirms["c"], "c", transcript=other)
    assert "another transcript" in refusal(lambda: federation.aggregator.add_confirm("c", wrong))
    seal = Seal(tuple(confirms.values()))
    for site in federation.sites.values():
        lied = Seal(tuple(wrong if confirm.site == "c" else confirm for confirm in confirms.values()))
        if site is not federation.sites["c"]:
            assert "c confirmed another transcript" in refusal(lambda: site.activate(lied))  # noqa: B023
        site.activate(seal)
    for name, confirm in confirms.items():
        federation.aggregator.add_confirm(name, confirm)
    federation.aggregator.seal()
    masked = federation.answer("c", federation.aggregator.round(NAMES, "steps", b""), ZERO)
    late = resigned("c", replace(masked, context=other))
    assert "answers another round" in refusal(lambda: federation.aggregator.add_masked("c", late))


@pytest.mark.parametrize("other", ["b", "d"])
def test_what_an_earlier_or_a_later_name_signed_is_not_taken_for_a_sites_own(other: str) -> None:
    federation = Federation()
    hellos = federation.hellos()
    assert "c: its Hello is not for this" in refusal(lambda: federation.aggregator.add_hello("c", hellos[other]))
    for name, hello in hellos.items():
        federation.aggregator.add_hello(name, hello)
    confirms = federation.confirms(federation.aggregator.roll())
    assert "c: it confirmed another" in refusal(lambda: federation.aggregator.add_confirm("c", confirms[other]))


def test_after_the_roll_no_hello_and_after_the_seal_no_confirmation_is_taken() -> None:
    federation = Federation()
    hellos = federation.hellos()
    for name in NAMES[:4]:
        federation.aggregator.add_hello(name, hellos[name])
    roll = federation.aggregator.roll()
    assert "not for this session" in refusal(lambda: federation.aggregator.add_hello("e", hellos["e"]))
    confirms = {name: federation.sites[name].confirm(roll, {}) for name in NAMES[:4]}
    for name, confirm in confirms.items():
        federation.aggregator.add_confirm(name, confirm)
    seal = federation.aggregator.seal()
    assert [confirm.site for confirm in seal.confirms] == list(NAMES[:4])
    assert "another transcript" in refusal(lambda: federation.aggregator.add_confirm("a", confirms["a"]))
    assert federation.aggregator.members == NAMES[:4]


def test_a_site_of_the_roster_that_is_not_in_the_session_cannot_confirm_it() -> None:
    federation = Federation(NAMES[:4])
    confirms = federation.confirms(federation.roll())
    outside = signed_confirm(confirms["d"], "e", site="e")
    assert "e: it confirmed another" in refusal(lambda: federation.aggregator.add_confirm("e", outside))
    for name, confirm in confirms.items():
        federation.aggregator.add_confirm(name, confirm)
    federation.aggregator.seal()


def test_a_round_starts_and_ends_without_answers_of_another(active: Federation) -> None:
    message = active.aggregator.round(NAMES, "steps", b"")
    active.aggregator.add_masked("a", active.answer("a", message, ZERO))
    active.aggregator.give_up()
    assert active.aggregator._masked == {}
    active.collect(active.aggregator.round(NAMES, "steps", b""), dict.fromkeys(NAMES, ZERO))
    active.aggregator.total()
    assert active.aggregator._masked == {}


def test_a_probe_works_where_vectors_are_not_masked() -> None:
    seen = local(combine="trimmed-mean")
    seen.collect(seen.aggregator.probe(NAMES), dict.fromkeys(NAMES, NOTHING))
    assert seen.aggregator.total().shape == (0,)


def test_the_wrong_length_of_canaries_alone_is_refused_though_the_words_fit(active: Federation) -> None:
    masked = active.answer("a", active.aggregator.round(NAMES, "steps", b""), ZERO)
    longer = resigned("a", replace(masked, canary=masked.canary + bytes(4)))
    assert "wrong length" in refusal(lambda: active.aggregator.add_masked("a", longer))


# The combined vector.


def columns(*values: int) -> list[Vector]:
    return [np.array([value, -value], dtype=np.int64) for value in values]


@pytest.mark.parametrize(
    ("combination", "tolerated", "values", "expected"),
    [
        ("sum", 2, (9, -4, 1, 2, 900, 3, 5), 916),
        ("median", 2, (9, -4, 1, 2, 900, 3, 5), 7 * 3),
        ("median", 1, (1, 2, 4, 700), 4 * 3),
        ("trimmed-mean", 0, (9, -4, 1, 2, 900, 3, 5), 916),
        ("trimmed-mean", 1, (9, -4, 1, 2, 900, 3, 5), 28),  # 7 / 5 of 20
        ("trimmed-mean", 2, (9, -4, 1, 2, 900, 3, 5), 23),  # 7 / 3 of 10, rounded down
        ("trimmed-mean", 2, (9, -4, 1, 3, 900, 3, 5), 26),  # 7 / 3 of 11, rounded up
    ],
)
def test_a_combination_is_exact(combination: Any, tolerated: int, values: tuple[int, ...], expected: int) -> None:
    found = combine(columns(*values), combination, tolerated)
    assert found.dtype == np.int64
    assert found.tolist() == [expected, -expected]


def test_the_coordinator_cuts_as_many_vectors_as_sites_are_tolerated() -> None:
    seen = local(combine="trimmed-mean")
    values = {name: np.full(DIM, value, dtype=np.int64) for name, value in zip(NAMES, (1, 2, 4, 8, 900), strict=True)}
    seen.collect(seen.aggregator.round(NAMES, "steps", b""), values)
    assert seen.aggregator.total().tolist() == [23] * DIM  # 5 / 3 of 14


@pytest.mark.parametrize(("sites", "tolerated"), [(3, 1), (5, 1), (5, 2), (9, 0), (9, 1), (9, 4), (20, 3)])
def test_the_noise_of_a_trimmed_mean_is_the_integral_of_its_influence(sites: int, tolerated: int) -> None:
    """Huber and Ronchetti (2009), section 3.3: the variance is that of the value clipped at the cut quantiles."""
    share = tolerated / sites
    cut = stats.norm.isf(share)
    end = min(cut, 12.0)
    inside, _ = integrate.quad(lambda x: x * x * stats.norm.pdf(x), -end, end)
    outside = 2 * share * cut**2 if tolerated else 0.0
    expected = math.sqrt(sites * (inside + outside)) / (1 - 2 * share)
    assert noise_factor(sites, "trimmed-mean", tolerated) == pytest.approx(expected, rel=1e-9)


def test_the_noise_of_a_sum_and_of_a_median_are_their_closed_forms() -> None:
    assert noise_factor(49, "sum", 3) == 7
    assert noise_factor(8, "median", 3) == pytest.approx(2 * math.sqrt(math.pi), rel=1e-12)


# A site's machine.


def test_a_site_sends_a_ciphertext_to_every_later_name_and_to_no_other() -> None:
    federation = Federation()
    for name, confirm in federation.confirms(federation.roll()).items():
        assert [to for to, _ in confirm.ciphertexts] == [later for later in NAMES if later > name]
        assert set(session_of(federation.sites[name]).encapsulated) == {later for later in NAMES if later > name}


@pytest.mark.parametrize("other", [LEAST, GREATEST])
def test_a_hello_of_a_lesser_or_a_greater_session_is_refused_in_the_roll(other: bytes) -> None:
    federation = Federation()
    roll = federation.roll()
    strange = signed_hello(roll.hellos[2], "c", federation.policy.hash, session=other)
    forged = replace(roll, hellos=(*roll.hellos[:2], strange, *roll.hellos[3:]))
    site = federation.sites["a"]
    assert_still(site, table.Site.HELLO, lambda: site.confirm(forged, {}), says="another session")


def test_a_journal_that_has_grown_is_taken() -> None:
    grown = Federation()
    hellos = grown.hellos()
    hellos["b"] = signed_hello(hellos["b"], "b", grown.policy.hash, journal_length=43)
    for name, hello in hellos.items():
        grown.aggregator.add_hello(name, hello)
    assert grown.sites["a"].confirm(grown.aggregator.roll(), {"b": 42}).site == "a"


def test_a_seal_that_confirms_other_sites_than_the_rolls_is_refused_whatever_its_length() -> None:
    federation = Federation()
    confirms = tuple(federation.confirms(federation.roll()).values())
    site = federation.sites["a"]
    stranger = replace(confirms[4], site="z")
    for forged in (confirms[:4], (*confirms, stranger), (*confirms[:4], stranger), (*confirms[:3], stranger)):
        says = "does not confirm exactly the roll"
        assert_still(site, table.Site.KEYED, lambda: site.activate(Seal(forged)), says=says)  # noqa: B023


def test_kinds_before_and_after_the_probe_in_the_alphabet_are_refused(active: Federation) -> None:
    site = active.sites["a"]
    for kind in ("alien", "unknown"):
        message = round_of(kind=kind, payload=b"")
        assert_still(site, table.Site.ACTIVE, lambda: site.accept(message), says="not in the study's plan")  # noqa: B023


def test_cohorts_of_any_wrong_order_are_refused_and_one_of_the_quorum_is_taken(active: Federation) -> None:
    site = active.sites["c"]
    for cohort in (("b", "a", "c", "d"), ("a", "c", "b", "d"), ("a", "a", "b", "c", "d"), ("a", "b", "c", "d", "d")):
        message = round_of(cohort=cohort)
        assert_still(site, table.Site.ACTIVE, lambda: site.accept(message), says="not a sorted part")  # noqa: B023
    assert site.accept(round_of(cohort=("a", "b", "c", "d"))).round.cohort == ("a", "b", "c", "d")


def test_a_roll_of_exactly_the_quorum_is_confirmed() -> None:
    federation = Federation(NAMES[:4])
    assert set(federation.confirms(federation.roll())) == set(NAMES[:4])


def test_a_counter_may_jump_by_less_than_1024() -> None:
    assert COUNTER_WINDOW == 1024


def test_none_of_many_other_payloads_is_answered_with_what_was_sent(active: Federation) -> None:
    active.answer("a", round_of(), ZERO)
    assert {active.sites["a"].repeated(round_of(payload=bytes([i]))) for i in range(32)} == {None}


def test_another_counter_is_dismissed_without_hashing_a_long_payload(
    active: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    active.answer("a", round_of(5), ZERO)

    def hashed(self: Round, transcript: bytes) -> bytes:
        raise AssertionError("was hashed")

    monkeypatch.setattr(Round, "context", hashed)
    for counter in (4, 6):
        assert active.sites["a"].repeated(round_of(counter)) is None


@pytest.mark.parametrize("other", [LEAST, GREATEST])
def test_only_the_committed_context_is_masked(active: Federation, other: bytes) -> None:
    site = active.sites["a"]
    accepted = site.accept(round_of())
    site.commit(accepted)
    with pytest.raises(Exception, match="only the committed round can be masked"):
        site.mask(replace(accepted, context=other), ZERO)


def test_every_key_of_a_committed_round_is_that_of_its_counter_and_is_then_stepped_over(active: Federation) -> None:
    site = active.sites["a"]
    session = session_of(site)
    expected: dict[str, keys.Ratchet] = {}
    for name, ratchet in {"a": session.own, **session.ratchets}.items():
        expected[name] = keys.Ratchet(bytes(ratchet._key))
        expected[name].advance(3)
    accepted = site.accept(round_of(3))
    seeds = site.commit(accepted)
    context = accepted.context
    assert seeds == Seeds(expected["a"].derive("sample", context), expected["a"].derive("noise", context))
    assert session.masks == [
        (expected[peer].derive("mask", context), expected[peer].derive("canary", context), True) for peer in NAMES[1:]
    ]
    for name, ratchet in {"a": session.own, **session.ratchets}.items():
        expected[name].advance(4)
        assert bytes(ratchet._key) == bytes(expected[name]._key)


def test_a_masked_sum_is_forgotten_when_it_comes_too_late_and_when_the_next_round_is_committed(
    active: Federation,
) -> None:
    site = active.sites["a"]
    active.answer("a", round_of(), ZERO)
    site.abandon()
    assert session_of(site).sent is None
    active.answer("a", round_of(2), ZERO)
    site.commit(site.accept(round_of(3)))
    assert session_of(site).sent is None


def test_closing_a_session_erases_every_key_and_leaves_none_open(active: Federation) -> None:
    site = active.sites["a"]
    held = session_of(site)
    site.close()
    assert [bytes(ratchet._key) for ratchet in (held.own, *held.ratchets.values())] == [bytes(32)] * 5
    assert snapshot(site) == {"state": table.Site.IDLE}
    assert site.transcript == b""


def test_a_sites_own_secret_follows_from_its_entropy_identity_and_transcript(active: Federation) -> None:
    own = keys.self_key(digest("test-entropy", b"a"), fed.identity("a"), active.sites["a"].transcript)
    assert bytes(session_of(active.sites["a"]).own._key) == own


def test_a_pairs_key_is_bound_to_both_names_and_to_the_ciphertext_that_was_sent() -> None:
    federation = Federation()
    seal = federation.seal()
    for name, peer in (("a", "c"), ("c", "a")):
        session = session_of(federation.sites[name])
        assert session.fresh is not None
        ephemeral = session.fresh.ephemeral
        ciphertext = dict(seal.confirms[0].ciphertexts)["c"]
        secret = session.encapsulated["c"][0] if name == "a" else keys.decapsulate(ephemeral, ciphertext, peer="a")
        theirs, salt = session.peers[peer].x25519, session.transcript
        expected = keys.pair_key(SUITES["hybrid"], ephemeral, theirs, secret, salt, b"a|c" + ciphertext, peer=peer)
        federation.sites[name].activate(seal)
        assert bytes(session.ratchets[peer]._key) == expected


# Keys and masks.


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_only_32_bytes_are_an_identity(length: int) -> None:
    assert not keys.is_identity(bytes([9] * length))


@pytest.mark.parametrize(
    "point",
    [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ],
)
def test_each_of_the_well_known_points_of_small_order_is_refused_as_an_identity(point: str) -> None:
    encoded = bytes.fromhex(point)
    assert not keys.is_identity(encoded)
    assert not keys.is_identity(encoded[:31] + bytes([encoded[31] | 0x80]))


def test_no_mask_stays_behind_in_the_block_it_was_drawn_into(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[npt.NDArray[Any]] = []
    empty = np.empty

    def watched(*args: Any, **kwargs: Any) -> npt.NDArray[Any]:
        blocks.append(empty(*args, **kwargs))
        return blocks[-1]

    monkeypatch.setattr(np, "empty", watched)
    apply_masks(np.zeros(100, dtype="<u4"), [(bytes(32), True)])
    assert [block.nbytes for block in blocks] == [400]  # no larger than its words
    assert not blocks[0].any()


# What is agreed is not changed afterwards.


def test_what_enters_and_leaves_a_machine_is_frozen_and_takes_no_further_fields(active: Federation) -> None:
    accepted = active.sites["a"].accept(round_of())
    news = fresh("a")
    for value, field in (
        (active.policy, "code"),
        (news, "entropy"),
        (news.ephemeral, "kem"),
        (accepted, "context"),
        (Seeds(b"", b""), "noise"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(value, field, b"another")
        assert not hasattr(value, "__dict__")
    assert not hasattr(session_of(active.sites["a"]), "__dict__")
