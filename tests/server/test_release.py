"""Releases on disk, made by a small model plugin that the tests install."""

import csv
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.plugins.api import Given
from synthfed.plugins.cli import app
from synthfed.plugins.domains.table import TableDomain
from synthfed.plugins.registry import find, installed
from synthfed.protocols.errors import ConfigError, DataError, LocalProtocolError, PluginError
from synthfed.protocols.study import Study, parse_study
from synthfed.server import sampling
from synthfed.server.evidence import Evidence
from synthfed.server.finish import write_release
from synthfed.server.release import open_release, sample_to, walk_to
from synthfed.server.releases.auditing import audit_files, audit_release, real_rows
from synthfed.server.releases.cli import audit

STUDY = """
format = 1
name = "toy-study"
target = "ill"
[privacy]
mode = "distributed"
epsilon = 2.0
delta = 1e-6
units_per_site = 1000
sample_rate = 0.1
steps = 10
[model]
plugin = "toy"
[cohort]
tolerated = 1
quorum = 3
sites = [{ id = "a" }, { id = "b" }, { id = "c" }]
[[columns]]
kind = "categorical"
name = "ill, or not"
values = ["no", "yes, quite"]
[[columns]]
kind = "categorical"
name = "ill"
values = ["no", "yes"]
missing = true
[[columns]]
kind = "integer"
name = "age"
lower = 0
upper = 99
"""

TOY = '''
import numpy as np

class Toy:
    """A model that draws from fixed shares: just enough of the contract for a release."""

    conditions = ()

    def __init__(self, study):
        self.study = study

    def sums(self):
        raise NotImplementedError("a release asks for no sum")

    private = sums

    def trainer(self, seed):
        return Trainer(seed)

class Trainer:
    def __init__(self, seed):
        self.arrays = {
            "share": np.array(0.25),
            "weights": np.full((2, 3), 0.5, dtype=np.float32).T,
            "half": np.ones(2, dtype=np.float16),
            "counts": np.arange(3, dtype=np.int64),
            "mask": np.array([True, False]),
            "bytes": np.arange(4, dtype=np.uint8),
        }

    def sample(self, rows, seed, given):
        rng = np.random.default_rng(seed)
        ill = (rng.random((rows, 2)) < self.arrays["share"]).astype(float)
        ill[:, 1][rng.random(rows) < 0.1] = np.nan
        return np.column_stack([ill, rng.integers(100, size=rows)])

    def walk(self, walks, steps, seed):
        return np.zeros((0, 3))

    def state(self):
        return self.arrays

    def load(self, state):
        if set(state) != set(self.arrays):
            raise KeyError("not a toy")
        self.arrays = dict(state)
'''

KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
HISTORY = [{"step": 1, "critic": 0.5}, {"step": 2, "critic": 0.25, "norm": float("nan")}]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install the toy model and, where synthfed itself is not installed, its audits; return a trainer."""
    site = tmp_path / "site-packages"
    info = site / "toy_dist-1.0.dist-info"
    info.mkdir(parents=True)
    points = "[synthfed.models]\ntoy = toy_release_model:Toy\n"
    if not installed("synthfed.audits"):
        audits = "synthfed.plugins.audits"
        points += f"[synthfed.audits]\nfidelity = {audits}.fidelity:Fidelity\nutility = {audits}.utility:Utility\n"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy_dist\nVersion: 1.0\nRequires-Dist: synthfed>=0\n")
    (info / "entry_points.txt").write_text(points)
    (site / "toy_release_model.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "toy_release_model", raising=False)
    return find("synthfed.models", "toy").load()(study()).trainer(0)


def study() -> Study:
    return parse_study(STUDY, where="test")


def evidence(**changes: Any) -> Evidence:
    site = {"controller": "", "key_fingerprint": "aaaa-bbbb", "epsilon_spent": 1.9, "delta": 1e-6, "rounds": 10}
    plugin = find("synthfed.models", "toy")
    fields: dict[str, Any] = {
        "study": "toy-study",
        "study_hash": study().hash.hex(),
        "mode": "distributed",
        "tolerated": 1,
        "quorum": 3,
        "delta": 1e-6,
        "epsilon": 2.0,
        "epsilon_if_secagg_fails": 3.5,
        "combine": "sum",
        "sites_per_unit": 1,
        "epsilon_by_bad_sites": [[1, 1.0], [2, 3.5]],
        "epsilon_by_sites_of_unit": [[1, 1.0], [2, 2.25], [3, None]],
        "clip_norm": 1.0,
        "sums": [
            {
                "name": "critic",
                "family": "gradient",
                "dim": 10,
                "noise_multiplier": 1.1,
                "sample_rate": 0.1,
                "clip_norm": 1.0,
                "cap": 10,
                "rounds_released": 9,
            }
        ],
        "sites": [{"id": name, **site} for name in "abc"],
        "plugin": {"name": "toy", "distribution": "toy_dist", "version": "1.0", "hash": plugin.hash.hex()},
        "versions": {"synthfed": "0.1.0"},
        "started": "2030-01-01T00:00:00+00:00",
        "ended": "2030-01-01T01:00:00+00:00",
        "seed_note": "public seed 5; the noise came from the operating system",
    }
    return Evidence.from_json(json.dumps(fields | changes), where="test")


def publish(folder: Path, trainer: Any, rows: int = 200) -> Path:
    write_release(
        folder,
        study=study(),
        study_text=STUDY,
        trainer=trainer,
        conditions=(),
        domain=TableDomain(),
        evidence=evidence(),
        history=HISTORY,
        rows=rows,
        seed=5,
        key=KEY,
    )
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_release_holds_its_files_and_nothing_is_left_beside_it(tmp_path: Path, toy: Any) -> None:
    folder = publish(tmp_path / "out" / "release", toy)
    wanted = {"synthetic.csv", "model/weights.safetensors", "model/model.json", "study.toml", "evidence.json"}
    assert files(folder) == wanted | {"report.json", "report.html", "seal.json"}
    assert list(folder.parent.iterdir()) == [folder]
    assert (folder / "study.toml").read_text() == STUDY


def test_the_model_comes_back_with_every_array_type(tmp_path: Path, toy: Any) -> None:
    restored = open_release(publish(tmp_path / "release", toy))
    state: Mapping[str, Any] = restored.trainer.state()
    for name, array in toy.state().items():
        assert state[name].dtype == array.dtype
        np.testing.assert_array_equal(state[name], array)
    assert (restored.study, restored.evidence, restored.has_same_plugin) == (study(), evidence(), True)


def test_sampling_with_the_published_seed_gives_the_published_rows(tmp_path: Path, toy: Any) -> None:
    folder = publish(tmp_path / "release", toy)
    sample_to(folder, 200, 5, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (folder / "synthetic.csv").read_bytes()
    sample_to(folder, 200, 6, tmp_path / "other.csv")
    assert (tmp_path / "other.csv").read_bytes() != (folder / "synthetic.csv").read_bytes()


def sampled_by_command(folder: Path, out: Path, *flags: str) -> list[dict[str, str]]:
    app(["sample", str(folder), "--out", str(out), "--rows", "600", *flags], standalone_mode=False)
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_balanced_rows_are_drawn_and_the_command_says_that_they_are(
    tmp_path: Path, toy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = publish(tmp_path / "release", toy), tmp_path / "rows.csv"
    rows = sampled_by_command(folder, out, "--balance", "ill", "--where", "age in 10..40")
    assert Counter(row["ill"] for row in rows) == {"no": 300, "yes": 300}
    assert all(10 <= int(row["age"]) <= 40 for row in rows)
    words = "balanced: every category of 'ill' equally often and never missing, not as the release has them"
    assert capsys.readouterr().out.splitlines() == [f"600 rows: {out}", words]


def test_equalised_rows_are_drawn_and_the_command_says_that_they_are(
    tmp_path: Path, toy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = publish(tmp_path / "release", toy), tmp_path / "rows.csv"
    rows = sampled_by_command(folder, out, "--equalise", "ill, or not", "--across", "ill")
    overall = sum(row["ill, or not"] == "no" for row in rows) / 600
    for group in ("no", "yes", ""):
        mine = [row["ill, or not"] == "no" for row in rows if row["ill"] == group]
        assert abs(sum(mine) - overall * len(mine)) <= 2
    words = "equalised: every category of 'ill, or not' as often in every group of 'ill', not as the release has them"
    assert capsys.readouterr().out.splitlines() == [f"600 rows: {out}", words]


def test_a_quota_is_not_met_along_a_walk(tmp_path: Path, toy: Any) -> None:
    folder, out = publish(tmp_path / "release", toy), tmp_path / "rows.csv"
    with pytest.raises(ConfigError, match="--balance: cannot be met along a walk; leave out --balance or --walks"):
        sampled_by_command(folder, out, "--walks", "2", "--balance", "ill")
    assert not out.exists()


def test_rows_are_not_written_under_the_name_of_another_kind_of_file(tmp_path: Path, toy: Any) -> None:
    folder = publish(tmp_path / "release", toy)
    with pytest.raises(ConfigError, match=r"out\.npz: must end with \.csv"):
        sample_to(folder, 20, 1, tmp_path / "out.npz")


def test_a_model_without_a_latent_space_is_not_walked_through(tmp_path: Path, toy: Any) -> None:
    folder = publish(tmp_path / "release", toy)
    with pytest.raises(ConfigError, match="--walks: model 'toy' has no latent space"):
        walk_to(folder, 20, 1, tmp_path / "walks.csv", walks=2)
    assert not (tmp_path / "walks.csv").exists()


def test_many_chunks_make_one_table(tmp_path: Path, toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CHUNK", 30)
    folder = publish(tmp_path / "release", toy, rows=100)
    text = (folder / "synthetic.csv").read_text().splitlines()
    assert len(text) == 101
    assert sum(line.startswith('"ill, or not"') for line in text) == 1
    sampled = open_release(folder).sample(100, 5)
    assert sampled.shape == (100, 3)
    assert not np.array_equal(sampled[:30], sampled[30:60])


@pytest.mark.parametrize(("rows", "seed"), [(0, 1), (-1, 1), (1, -1)])
def test_a_table_that_cannot_be_is_not_sampled(tmp_path: Path, toy: Any, rows: int, seed: int) -> None:
    folder = publish(tmp_path / "release", toy)
    with pytest.raises(ConfigError, match="cannot sample"):
        sample_to(folder, rows, seed, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_sample_that_cannot_be_written_leaves_the_older_file(
    tmp_path: Path, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = publish(tmp_path / "release", toy), tmp_path / "out" / "rows.csv"
    out.parent.mkdir()
    out.write_text("older")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"rows\.csv: cannot be written: No space left"):
        sample_to(folder, 200, 5, out)
    assert out.read_text() == "older"
    assert list(out.parent.iterdir()) == [out]


def test_a_folder_in_use_is_never_overwritten(tmp_path: Path, toy: Any) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="choose another --out"):
        publish(folder, toy)
    assert files(folder) == {"thesis.txt"}


def test_an_empty_folder_is_used(tmp_path: Path, toy: Any) -> None:
    (tmp_path / "release").mkdir()
    assert "report.html" in files(publish(tmp_path / "release", toy))


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path, toy: Any) -> None:
    calls = iter(range(10))
    sample = toy.sample

    def breaks_later(rows: int, seed: int, given: Given) -> Any:
        if next(calls) > 0:
            raise OSError(28, "No space left on device")
        return sample(rows, seed, given)

    toy.sample = breaks_later
    with pytest.raises(ConfigError, match="No space left"):
        publish(tmp_path / "out" / "release", toy)
    assert list((tmp_path / "out").iterdir()) == []


def test_evidence_of_another_study_is_not_written(tmp_path: Path, toy: Any) -> None:
    other = STUDY.replace("toy-study", "other-study")
    with pytest.raises(LocalProtocolError, match="disagree"):
        write_release(
            tmp_path / "release",
            study=study(),
            study_text=other,
            trainer=toy,
            conditions=(),
            domain=TableDomain(),
            evidence=evidence(),
            history=(),
            rows=1,
            seed=1,
            key=KEY,
        )


@pytest.mark.parametrize("name", ["study.toml", "evidence.json", "model/model.json", "model/weights.safetensors"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, toy: Any, name: str) -> None:
    folder = publish(tmp_path / "release", toy)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=name):
        open_release(folder)
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name}: cannot be read"):
        open_release(folder)


@pytest.mark.parametrize("name", ["evidence.json", "model/model.json"])
def test_an_unknown_format_is_refused(tmp_path: Path, toy: Any, name: str) -> None:
    folder = publish(tmp_path / "release", toy)
    fields = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(fields | {"format": 2}))
    with pytest.raises(ConfigError, match="format"):
        open_release(folder)


def test_terms_that_were_changed_afterwards_are_noticed(tmp_path: Path, toy: Any) -> None:
    folder = publish(tmp_path / "release", toy)
    (folder / "study.toml").write_text(STUDY.replace("epsilon = 2.0", "epsilon = 0.1"))
    with pytest.raises(ConfigError, match="another study"):
        open_release(folder)


def test_a_release_whose_plugin_is_gone_names_it(tmp_path: Path, toy: Any) -> None:
    folder = publish(tmp_path / "release", toy)
    (tmp_path / "site-packages" / "toy_dist-1.0.dist-info" / "entry_points.txt").write_text("")
    with pytest.raises(PluginError, match=r"'toy'.*not installed"):
        open_release(folder)


def test_a_plugin_that_changed_is_noticed(tmp_path: Path, toy: Any) -> None:
    folder = publish(tmp_path / "release", toy)
    module = tmp_path / "site-packages" / "toy_release_model.py"
    module.write_text(TOY + "# changed\n")
    assert not open_release(folder).has_same_plugin


def test_a_plugin_that_refuses_the_weights_is_named(tmp_path: Path, toy: Any) -> None:
    del toy.arrays["mask"]
    folder = publish(tmp_path / "release", toy)
    with pytest.raises(PluginError, match=r"'toy' \(distribution toy_dist\): cannot take its state back"):
        open_release(folder)


def test_audits_put_their_findings_into_both_reports(tmp_path: Path, toy: Any) -> None:
    folder = publish(tmp_path / "release", toy)
    before = json.loads((folder / "report.json").read_text())
    assert before["audits"] is None
    findings = audit_release(folder, train=toy.sample(300, 11, {}), holdout=toy.sample(200, 12, {}), seed=3)
    found = {finding.audit: finding for finding in findings}
    assert {"diversity", "fidelity", "utility"} <= set(found)
    assert found["recognition"].unfit
    after = json.loads((folder / "report.json").read_text())
    measured = {each["audit"]: each["estimates"] for each in after["audits"]["findings"]}
    assert measured["fidelity"][0]["name"] == "tvd2"
    assert {key: after[key] for key in ("history", "privacy", "rows")} == {
        key: before[key] for key in ("history", "privacy", "rows")
    }
    page = (folder / "report.html").read_text()
    assert "Real rows were used for these audits" in page
    assert "not differentially private" in page
    assert not [name for name in files(folder) if name.endswith(".part")]


def test_an_audit_for_another_synthfed_is_told_of_and_stops_no_other(
    tmp_path: Path, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(tmp_path / "release", toy)
    info = tmp_path / "later" / "later_dist-3.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: later_dist\nVersion: 3.0\nRequires-Dist: synthfed>=99\n"
    )
    (info / "entry_points.txt").write_text("[synthfed.audits]\nlater = no_such_module:Later\n")
    monkeypatch.syspath_prepend(str(info.parent))
    findings = audit_release(folder, train=toy.sample(300, 11, {}), holdout=toy.sample(200, 12, {}), seed=3)
    told = {finding.audit: finding.unfit for finding in findings}
    assert "was made for synthfed >=99" in told["later"]
    assert not told["fidelity"]
    assert "was made for synthfed" in (folder / "report.html").read_text()


def test_rows_of_another_table_are_not_audited(tmp_path: Path, toy: Any) -> None:
    folder = publish(tmp_path / "release", toy)
    with pytest.raises(ConfigError, match="holdout rows"):
        audit_release(folder, train=toy.sample(9, 1, {}), holdout=np.zeros((5, 2)), seed=3)


def test_whoever_has_real_rows_audits_them_from_files_and_leaves_the_release_as_it_is(
    tmp_path: Path, toy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = publish(tmp_path / "release", toy)
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    for name, seed in (("train.csv", 11), ("holdout.csv", 12)):
        TableDomain().write(tmp_path / name, study().columns, [toy.sample(300, seed, {})])
    out = tmp_path / "audit"
    wanted = [str(folder), "--train", str(tmp_path / "train.csv"), "--holdout", str(tmp_path / "holdout.csv")]
    command = typer.main.get_command(audit)
    command.main([*wanted, "--out", str(out)], standalone_mode=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert "members found, density" in printed
    assert "recognition: not asked:" in printed
    assert "not differentially private" in printed
    assert out.stat().st_mode & 0o777 == 0o700
    found = {each["audit"] for each in json.loads((out / "report.json").read_text())["audits"]["findings"]}
    assert {"attribute", "copies", "detection", "diversity", "fidelity", "membership", "utility"} <= found
    assert "Attacks that were tried" in (out / "report.html").read_text()
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before
    with pytest.raises(ConfigError, match="holds a report, which is never overwritten"):
        command.main([*wanted, "--out", str(out)], standalone_mode=False)


def test_an_audit_looks_at_one_record_of_each_person_and_at_any_of_them(tmp_path: Path) -> None:
    terms = parse_study(STUDY.replace("epsilon =", 'unit = "who"\nrecords_per_unit = 3\nepsilon ='), where="test")
    rows = [f"no,yes,{10 * person + visit},{person}" for person in range(9) for visit in range(3)]
    (tmp_path / "real.csv").write_text("\n".join(['"ill, or not",ill,age,who', *rows]) + "\n")
    ages = np.stack([real_rows(terms, tmp_path / "real.csv", seed)[:, 2] for seed in range(12)])
    assert (ages // 10 == np.arange(9)).all()
    assert {int(age) % 10 for age in ages.ravel()} == {0, 1, 2}


def test_real_rows_that_do_not_fit_are_told_of_without_a_value_and_nothing_is_written(tmp_path: Path, toy: Any) -> None:
    folder, wrong = publish(tmp_path / "release", toy), tmp_path / "wrong.csv"
    wrong.write_text('"ill, or not",ill,age\nsecret,secret,secret\n')
    with pytest.raises(DataError, match=r"wrong\.csv") as error:
        audit_files(folder, wrong, wrong, tmp_path / "audit", 0)
    assert "secret" not in str(error.value)
    assert not (tmp_path / "audit").exists()


def test_evidence_survives_json(toy: Any) -> None:
    whole = evidence()
    assert Evidence.from_json(whole.to_json(), where="test") == whole


@pytest.mark.parametrize(
    "changes",
    [
        {"study_hash": "short"},
        {"epsilon": float("inf")},
        {"started": "2030-01-01T00:00:00"},
        {"ended": "yesterday"},
        {"surprise": 1},
        {"delta": 1.0},
    ],
)
def test_evidence_that_makes_no_sense_is_refused(toy: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="test"):
        evidence(**changes)
