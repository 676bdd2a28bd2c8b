"""Releases that are verified: one that is whole, and one for each thing that can be wrong with it."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.server import test_release as made

from synthfed.plugins.domains.table import TableDomain
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.study import parse_study
from synthfed.server.evidence import Evidence
from synthfed.server.finish import write_release
from synthfed.server.releases.cli import verify
from synthfed.server.releases.sealing import seal_folder
from synthfed.server.releases.verifying import verify_release

toy = made.toy
SITES = {name: Ed25519PrivateKey.from_private_bytes(name.encode() * 32).public_key() for name in "abc"}
ROSTER = ", ".join(
    f'{{ id = "{name}", key = "{base64.b64encode(key.public_bytes_raw()).decode()}" }}' for name, key in SITES.items()
)
STUDY = made.STUDY.replace('{ id = "a" }, { id = "b" }, { id = "c" }', ROSTER)
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
OWN = fingerprint(made.KEY.public_key().public_bytes_raw())


SPENT = {"controller": "", "epsilon_spent": 1.0, "delta": 1e-6, "rounds": 10}
CRITIC = {
    "name": "critic",
    "family": "gradient",
    "dim": 10,
    "noise_multiplier": 1.5,  # ten steps of it cost epsilon 1.59 at 1e-6
    "sample_rate": 0.1,
    "clip_norm": 1.0,
    "cap": 10,
    "rounds_released": 9,
}
TOLD = [{"id": name, "key_fingerprint": fingerprint(key.public_bytes_raw()), **SPENT} for name, key in SITES.items()]


def evidence(**changes: Any) -> Evidence:
    fields: dict[str, Any] = {
        "study_hash": parse_study(STUDY, where="test").hash.hex(),
        "sites": TOLD,
        "sums": [CRITIC],
    }
    return made.evidence(**(fields | {"epsilon": 2.0} | changes))


def publish(folder: Path, trainer: Any, told: Evidence) -> Path:
    write_release(
        folder,
        study=parse_study(STUDY, where="test"),
        study_text=STUDY,
        trainer=trainer,
        conditions=(),
        domain=TableDomain(),
        evidence=told,
        history=made.HISTORY,
        rows=50,
        seed=5,
        key=made.KEY,
    )
    return folder


@pytest.fixture
def release(tmp_path: Path, toy: Any) -> Path:
    return publish(tmp_path / "release", toy, evidence())


def wrong(folder: Path, coordinator: str = "") -> dict[str, str]:
    return {each.name: each.told for each in verify_release(folder, coordinator) if not each.is_ok}


def test_a_release_as_it_was_written_is_well_and_says_who_sealed_it(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wrong(release, OWN) == {}
    typer.main.get_command(verify).main([str(release)], standalone_mode=False)
    printed = capsys.readouterr().out
    assert f"coordinator {OWN}" in printed
    assert "epsilon 2 of 2; its sums cost 1.585" in printed
    assert "WRONG" not in printed


def test_a_release_under_another_coordinators_key_is_told_apart(release: Path) -> None:
    study = parse_study(STUDY, where="test")
    seal_folder(release, STRANGER, study=study.hash, setting="federation")
    assert wrong(release) == {}
    assert f"not by the coordinator {OWN}" in wrong(release, OWN)["seal"]


def test_a_seal_of_another_setting_than_the_evidences_is_told(release: Path) -> None:
    seal_folder(release, made.KEY, study=parse_study(STUDY, where="test").hash, setting="simulation")
    assert "is of a federation, and the seal of a simulation" in wrong(release)["evidence"]


def edit(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


TAMPERED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a row": (lambda at: (at / "synthetic.csv").write_text("no,no,1\n"), "files", "synthetic.csv was changed"),
    "a file more": (lambda at: (at / "model/notes.txt").write_text("x"), "files", "model/notes.txt was added"),
    "a file less": (lambda at: (at / "report.html").unlink(), "files", "report.html is missing"),
    "no seal": (lambda at: (at / "seal.json").unlink(), "seal", "cannot be read"),
    "a seal with another hash": (
        lambda at: edit(at / "seal.json", lambda seal: seal["files"].update({"study.toml": "0" * 64})),
        "seal",
        "is not signed by the key that it names",
    ),
    "a link": (lambda at: (at / "link").symlink_to("/etc/hostname"), "files", "is a link"),
    "other weights": (
        lambda at: (at / "model/weights.safetensors").write_bytes(b"x"),
        "model",
        "names other weights than those beside it",
    ),
    "another report": (
        lambda at: edit(at / "report.json", lambda report: report["evidence"].update(epsilon=0.1)),
        "report",
        "does not state what evidence.json states",
    ),
    "other terms": (
        lambda at: (at / "study.toml").write_text(STUDY.replace("steps = 10", "steps = 11")),
        "terms",
        "another study than the seal names",
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_whatever_was_changed_is_named(release: Path, name: str) -> None:
    tamper, check, told = TAMPERED[name]
    tamper(release)
    assert told in wrong(release)[check]
    with pytest.raises(ConfigError, match=rf"{check}.*: not as they should be"):
        typer.main.get_command(verify).main([str(release)], standalone_mode=False)


STATED: dict[str, tuple[dict[str, Any], str, str]] = {
    "less epsilon than its sums cost": ({"epsilon": 1.5}, "promise", "states epsilon 1.5, but its sums cost"),
    "more epsilon than was agreed": ({"epsilon": 2.5}, "promise", "more than the 2 of the terms"),
    "a round more than was paid for": ({"sums": [{**CRITIC, "rounds_released": 11}]}, "promise", "'critic' too often"),
    "more steps than memory holds": ({"sums": [{**CRITIC, "steps": 10**15}]}, "promise", "more steps of 'critic'"),
    "steps that all terms together could not pay": (
        {"sums": [{**CRITIC, "cap": 10**6}]},
        "promise",
        "more steps of 'critic' than any terms pay for",
    ),
    "another delta": ({"delta": 1e-5}, "promise", "another mode, delta"),
    "fewer sites": ({"tolerated": 2}, "promise", "another mode, delta, tolerated"),
    "a stranger among the sites": (
        {"sites": [{**TOLD[0], "id": "d"}]},
        "sites",
        "other sites or keys than the terms",
    ),
    "more charged than promised": (
        {"sites": [{**site, "epsilon_spent": 3.0} for site in TOLD]},
        "sites",
        "more was charged at a, b, c",
    ),
}


@pytest.mark.parametrize("name", STATED)
def test_figures_that_cannot_be_true_are_found_under_an_honest_seal(tmp_path: Path, toy: Any, name: str) -> None:
    changes, check, told = STATED[name]
    folder = publish(tmp_path / "release", toy, evidence(**changes))
    found = wrong(folder)
    assert set(found) == {check}
    assert told in found[check]


def test_a_simulation_says_that_its_seal_is_nobodys(tmp_path: Path, toy: Any) -> None:
    folder = publish(tmp_path / "release", toy, evidence(setting="simulation"))
    (seal,) = [each for each in verify_release(folder) if each.name == "seal"]
    assert "of a simulation, which has no coordinator" in seal.told
