"""The stored test vectors, replayed: a change of any format or derivation shows here."""

import json
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.vectors import generate

from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.privacy.sampling import poisson_sample, uniform_below
from synthfed.protocols.secagg import keys
from synthfed.protocols.secagg.messages import Roll, Round, decode, encode
from synthfed.protocols.secagg.suites import SUITES
from synthfed.protocols.study import parse_study

raw = bytes.fromhex


def load(name: str) -> Any:
    return json.loads((generate.FOLDER / name).read_text(encoding="ascii"))


HASHES, KEYS, DRAWS, FRAMES = (load(f"{name}.json") for name in ("hashes", "keys", "draws", "frames"))


@pytest.mark.parametrize("name", generate.FILES)
def test_the_generator_still_writes_the_stored_file(name: str) -> None:
    assert generate.text_of(name) == (generate.FOLDER / name).read_text(encoding="ascii")


def test_terms_have_the_stored_bytes_and_hashes() -> None:
    study = parse_study(HASHES["study"]["toml"], where="vector")
    policy = generate.policy_of(study)
    assert policy.code.hex() == HASHES["policy"]["code"]
    assert study.canonical.decode() == HASHES["study"]["canonical"]
    assert study.hash.hex() == HASHES["study"]["hash"]
    constrained = parse_study(HASHES["constrained"]["toml"], where="vector")
    assert constrained.canonical.decode() == HASHES["constrained"]["canonical"]
    assert constrained.hash.hex() == HASHES["constrained"]["hash"]
    by_site = parse_study(HASHES["by_site"]["toml"], where="vector")
    assert by_site.canonical.decode() == HASHES["by_site"]["canonical"]
    assert by_site.hash.hex() == HASHES["by_site"]["hash"]
    assert by_site.released.columns[-1].model_dump(mode="json") == HASHES["by_site"]["last_column"]
    assert [kind.declaration() for kind in policy.plan.kinds] == HASHES["policy"]["kinds"]
    assert policy.hash.hex() == HASHES["policy"]["hash"]


def test_transcript_context_and_signed_digests_are_the_stored_ones() -> None:
    policy, transcript = raw(HASHES["policy"]["hash"]), raw(HASHES["transcript"]["hash"])
    roll, _ = decode(raw(HASHES["transcript"]["roll"]))
    message, _ = decode(raw(HASHES["context"]["round"]))
    assert isinstance(roll, Roll)
    assert isinstance(message, Round)
    assert roll.transcript(policy) == transcript
    assert message.context(transcript).hex() == HASHES["context"]["hash"]
    assert generate.HELLO.signed(policy).hex() == HASHES["signed"]["hello"]
    assert generate.CONFIRM.signed().hex() == HASHES["signed"]["confirm"]
    assert generate.MASKED.signed("a").hex() == HASHES["signed"]["masked"]
    assert generate.REVEALED.signed("a").hex() == HASHES["signed"]["revealed"]


def test_agreed_keys_are_the_stored_ones() -> None:
    pair = {name: raw(value) for name, value in KEYS["pair"].items()}
    own = generate.ephemeral(pair["x25519_private"], pair["kem_seed"])
    assert own.public == (pair["x25519_public"], pair["kem_public"])
    agreed = pair["peer_x25519_public"], pair["kem_secret"], pair["salt"], pair["info"]
    assert keys.pair_key(SUITES["hybrid"], own, *agreed, peer="b-2") == pair["key"]
    alone = {name: raw(value) for name, value in KEYS["self"].items()}
    identity = Ed25519PrivateKey.from_private_bytes(alone["identity_private"])
    assert keys.self_key(alone["entropy"], identity, alone["salt"]) == alone["key"]


def test_a_ratchet_derives_the_stored_keys() -> None:
    ratchet = keys.Ratchet(raw(KEYS["pair"]["key"]))
    for step in KEYS["ratchet"]:
        ratchet.advance(step["counter"])
        assert ratchet.derive(step["purpose"], raw(step["context"])).hex() == step["key"]


def test_streams_noise_and_coins_are_the_stored_ones() -> None:
    words = DRAWS["words"]
    assert KeyStream(raw(words["key"])).words(len(words["words"])).tolist() == words["words"]
    for case in DRAWS["discrete_gaussian"]:
        found = discrete_gaussian(KeyStream(raw(case["key"])), len(case["draws"]), case["scale_bits"])
        assert found.tolist() == case["draws"]
    for case in DRAWS["poisson_sample"]:
        assert poisson_sample(KeyStream(raw(case["key"])), case["units"], case["rate"]).tolist() == case["sample"]
    case = DRAWS["uniform_below"]
    assert uniform_below(KeyStream(raw(case["key"])), np.array(case["bounds"])).tolist() == case["draws"]


@pytest.mark.parametrize("case", FRAMES["good"], ids=lambda case: case["message"]["type"])
def test_a_stored_frame_decodes_to_its_message_and_back(case: dict[str, Any]) -> None:
    message, sequence = decode(raw(case["frame"]))
    assert (generate.described(message), sequence) == (case["message"], case["sequence"])
    assert encode(message, sequence).hex() == case["frame"]


def test_every_type_of_message_has_a_stored_frame() -> None:
    assert {type(message).__name__ for message in generate.MESSAGES} == {
        case["message"]["type"] for case in FRAMES["good"]
    }
    assert {raw(case["frame"])[3] for case in FRAMES["good"]} == set(range(1, 12))
