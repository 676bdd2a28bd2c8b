"""Cases for the files that people write and exchange, and for a run's own: made, decoded, and what must then hold."""

import json
import os
import random
import re
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save
from tests.fuzzing import mutation
from tests.fuzzing.decoder import promise
from tests.vectors import session

from synthfed.protocols.approval import Decision, PluginPin, Subject
from synthfed.protocols.cohort import least_quorum
from synthfed.protocols.enrolment import Enrolment, Invitation, parse
from synthfed.protocols.ids import digest
from synthfed.protocols.proposal import Proposal, parse_terms
from synthfed.protocols.study import parse_study
from synthfed.server.evidence import Evidence
from synthfed.server.store import Run

LOCAL: Final = re.sub(r"epsilon_if\S+ = \S+\n", "", session.TERMS.replace('"distributed"', '"local"'))
STUDIES: Final = (
    session.TERMS.encode(),
    LOCAL.replace("[cohort]", '[aggregation]\ncombine = "median"\nclip_total = 3.5\n[cohort]', 1).encode(),
)


def run_study(data: bytes) -> None:
    study = parse_study(data.decode("utf-8", "replace"), where="study.toml")
    cohort, mode = study.cohort, study.privacy.mode
    given = [site.key for site in cohort.sites if site.key]
    promise(len(set(given)) == len(given) and len(set(cohort.roster)) == len(cohort.sites), "a site counts twice")
    least = least_quorum(len(cohort.sites), cohort.tolerated, mode)
    promise(least <= cohort.quorum <= len(cohort.sites), "the quorum is out of range")
    promise(0 < study.privacy.epsilon <= 100 and study.target in {each.name for each in study.columns}, "odd terms")
    promise(len(study.hash) == 32 and all(len(key) in (0, 32) for key in cohort.keys.values()), "odd keys")


CA: Final = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
INVITATION: Final = Invitation(address="coordinator.example:9092", ca=CA).model_dump_json().encode()
NODE: Final = "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQ="
ENROLMENT: Final = Enrolment.signed("north", "trust", session.identity("north"), NODE).model_dump_json().encode()


STUDY: Final = parse_study(session.TERMS, where="study.toml")
PIN: Final = PluginPin(kind="model", name="gan", distribution="synthfed", version="0.1.0", hash="ab" * 32)
SUBJECT: Final = Subject("north", STUDY.hash.hex(), "cd" * 32, (PIN,))
DECISION: Final = Decision.of(session.identity("north"), "approve", SUBJECT, 1_700_000_000, "agreed").content
PROPOSAL: Final = Proposal.of(session.identity("north"), STUDY).content


def run_decision(data: bytes) -> None:
    promise(Decision.parse(data, where="decision.json").content == DECISION, "a changed decision verifies")


def run_proposal(data: bytes) -> None:
    study, proposal = parse_terms(data, where="terms.json")
    promise(proposal is None or proposal.content == PROPOSAL, "a changed proposal verifies")
    promise(proposal is None or study.hash == STUDY.hash, "a proposal states another study than was signed")


def run_invitation(data: bytes) -> None:
    invitation = parse(Invitation, data.decode("utf-8", "replace"), where="invitation.json")
    promise(len(invitation.fingerprint) == 24, "a fingerprint has 80 bits")
    promise(1 <= int(invitation.address.rpartition(":")[2]) <= 65535, "a port is out of range")


def run_enrolment(data: bytes) -> None:
    enrolment = parse(Enrolment, data.decode("utf-8", "replace"), where="enrolment.json")
    promise(len(enrolment.fingerprint) == 24, "a fingerprint has 80 bits")
    enrolment.verify(where="enrolment.json")
    honest = Enrolment.model_validate_json(ENROLMENT)
    promise(enrolment._signed == honest._signed, "a changed enrolment verifies under the site's key")


STATE: Final[dict[str, Any]] = {
    "weights": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "seed": np.array([7], dtype=np.int64),
    "empty": np.zeros((0, 2)),
}
TALLY: Final = {
    "attempts": {"steps": 3},
    "released": {"steps": 2},
    "charged": {"north": {"steps": 3}},
    "history": [{"loss": 0.5}],
    "started": "2030-01-31T12:00:00+00:00",
    "seconds": 1.5,
}
STUDY_HASH: Final = session.HYBRID.policy.study.hash.hex()
DTYPES: Final = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "F4",
    "C64",
    "I64",
    "I8",
    "U8",
    "U64",
    "BOOL",
    "X",
    "",
)


def checkpoint(arrays: dict[str, Any], counts: str, study: str = STUDY_HASH) -> bytes:
    """Return a checkpoint with its own checksum, as `Run.save` computes it."""
    parts = [counts.encode()]
    for name, array in sorted(arrays.items()):
        parts += [name.encode(), f"{array.dtype.str} {array.shape}".encode(), array.tobytes()]
    header = {"format": "1", "study": study, "tally": counts, "hash": digest("checkpoint", *parts).hex()}
    return with_header(save(arrays), {"__metadata__": header})  # `save` itself writes metadata in any order


def with_header(data: bytes, changes: dict[str, Any]) -> bytes:
    """Return safetensors with some entries of the header set anew."""
    size = int.from_bytes(data[:8], "little")
    written = json.dumps(json.loads(data[8 : 8 + size]) | changes, sort_keys=True).encode()
    return len(written).to_bytes(8, "little") + written + data[8 + size :]


CHECKPOINT: Final = checkpoint(STATE, json.dumps(TALLY))


def make_checkpoint(rng: random.Random) -> bytes:
    """Return a checkpoint with a changed header, changed data, or changed counts."""
    if rng.random() < 0.3:
        return mutation.mutated_bytes(rng, CHECKPOINT)
    size = int.from_bytes(CHECKPOINT[:8], "little")
    header, data = json.loads(CHECKPOINT[8 : 8 + size]), CHECKPOINT[8 + size :]
    if rng.random() < 0.3:
        name = rng.choice(list(STATE))
        header[name]["dtype"] = rng.choice(DTYPES)
        header[name]["shape"] = rng.choice(
            ([], [0], [3, 4], [12], [2**63], [2**32, 2**32], [-1], [1] * 64, [2**20] * 3)
        )
        header[name]["data_offsets"] = rng.choice((header[name]["data_offsets"], [0, 48], [48, 0], [0, 2**63], [0, 0]))
    else:
        header = mutation.mutated_tree(rng, header)
    written = mutation.written_json(header)
    length = rng.choice((len(written),) * 20 + (0, 8, 2**31, 2**63 - 1, 2**64 - 1))
    return length.to_bytes(8, "little") + written + (mutation.mutated_bytes(rng, data) if rng.random() < 0.2 else data)


def make_tally(rng: random.Random) -> bytes:
    """Return a checkpoint whose checksum is right and whose counts are not."""
    return checkpoint(STATE, mutation.mutated_json(rng, json.dumps(TALLY).encode()).decode("utf-8", "replace"))


MEMORY: Final = Path("/dev/shm")


class CheckpointFile:
    """One file that every case overwrites, in memory where there is such a place."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self._run = Run(Path(self._folder.name))
        self._path = Path(self._folder.name) / "checkpoint.safetensors"

    def run(self, data: bytes) -> None:
        part = self._path.with_suffix(".part")
        part.write_bytes(data)
        os.replace(part, self._path)  # noqa: PTH105 - a mapped file must not shrink under its reader
        loaded = self._run.load(session.HYBRID.policy.study)
        promise(loaded is not None, "a checkpoint vanished")


EVIDENCE: Final = json.dumps(
    {
        "format": 1,
        "setting": "simulation",
        "study": "vectors",
        "study_hash": "0a" * 32,
        "mode": "distributed",
        "combine": "sum",
        "key_agreement": "hybrid",
        "tolerated": 1,
        "quorum": 3,
        "delta": 1e-6,
        "epsilon": 1.0,
        "epsilon_if_secagg_fails": None,
        "sites_per_unit": 1,
        "epsilon_by_bad_sites": [[1, 1.0], [2, None]],
        "epsilon_by_sites_of_unit": [[1, 1.0], [2, 2.25]],
        "clip_norm": 1.0,
        "sigma_floor": 0.5,
        "sums": [
            {
                "name": "steps",
                "family": "gradient",
                "dim": 6,
                "noise_multiplier": 1.25,
                "own_noise": 0.625,
                "sample_rate": 0.1,
                "clip_norm": 1.5,
                "cap": 100,
                "rounds_released": 9,
            }
        ],
        "sites": [
            {
                "id": "north",
                "controller": "trust",
                "key_fingerprint": "aaaa-bbbb",
                "epsilon_spent": 0.9,
                "delta": 1e-6,
                "rounds": 9,
            }
        ],
        "plugin": {"name": "toy", "distribution": "toy-dist", "version": "1.0", "hash": "0" * 64},
        "versions": {"synthfed": "0.1.0"},
        "started": "2030-01-01T00:00:00+00:00",
        "ended": "2030-01-01T01:00:00+00:00",
        "seed_note": "public",
    }
).encode()


def run_evidence(data: bytes) -> None:
    evidence = Evidence.from_json(data, where="evidence.json")
    promise(Evidence.from_json(evidence.to_json(), where="evidence.json") == evidence, "evidence does not come back")
    numbers = [evidence.epsilon, evidence.delta, evidence.clip_norm]
    promise(all(np.isfinite(number) for number in numbers), "a number of the evidence is not finite")
