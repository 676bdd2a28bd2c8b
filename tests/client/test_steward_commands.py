"""What a steward is shown and can say, by the commands that stewards run."""

import json
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.client.homes import make_home
from typer.testing import CliRunner

from synthfed.client.cli import app
from synthfed.client.config import Home
from synthfed.client.consent.desk import decide, keep_terms, open_desk, reviewed
from synthfed.client.consent.review import pages
from synthfed.client.consent.stewards import load_key
from synthfed.client.consent.words import plain
from synthfed.client.keys.identity import load_identity
from synthfed.protocols.errors import ConfigError, PrivacyError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.proposal import Proposal
from synthfed.protocols.signed import public_text
from synthfed.server.home import ServerHome, init_home
from synthfed.server.proposing import propose
from synthfed.server.study_file import render_study


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return a home of site a whose own key has approved its study."""
    return make_home(tmp_path_factory.mktemp("homes"), "127.0.0.1:1", "no certificate")


@pytest.fixture
def home(template: Home, tmp_path: Path) -> Home:
    shutil.copytree(template.path, tmp_path / "a")
    return Home(tmp_path / "a")


def run(*arguments: object, expect: int = 0) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == expect, f"{done.output} {done.exception!r}"
    return re.sub(r"\s+", " ", done.output)


def refused(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert isinstance(done.exception, ConfigError), done.output
    return str(done.exception)


def make_stewards(home: Home, folder: Path, needed: int) -> dict[str, Path]:
    """List Anna, who has a passphrase, and Ben, who has none, in the settings; return their keys' files."""
    (folder / "word").write_text("correct horse\nnot this\n", encoding="utf-8")
    (folder / "word").chmod(0o600)
    lines, keys = [], {name: folder / f"{name}.key" for name in ("anna", "ben")}
    for name, key in keys.items():
        sealing = ["--passphrase-file", folder / "word"] if name == "anna" else []
        lines.append(re.findall(r"\{ name = .* \},", run("steward", name, "--out", key, *sealing))[0])
    text = home.config.read_text(encoding="utf-8")
    text = text.replace("needed = 1 ", f"needed = {needed} ").replace(
        "stewards = []", f"stewards = [{' '.join(lines)}]"
    )
    home.config.write_text(text, encoding="utf-8")
    return keys


def test_two_people_approve_with_their_own_keys_and_one_of_them_withdraws(home: Home, tmp_path: Path) -> None:
    keys = make_stewards(home, tmp_path, 2)
    assert "these terms have 0 of 2 approval(s)" in run("review", "--home", home.path)
    assert "approval.stewards does not list this key" in refused("approve", "--home", home.path)
    anna = ["--key", keys["anna"], "--passphrase-file", tmp_path / "word", "--home", home.path]
    for _ in range(2):
        said = run("approve", *anna)
        assert "approve by anna" in said
        assert (
            "not yet enough: approval.needed = 2: these terms have 1 of 2 approval(s) (there is that of anna)" in said
        )
    assert "approved: the agent serves these terms" in run("approve", "--key", keys["ben"], "--home", home.path)
    assert "Approved: 2 of 2 needed." in run("review", "--home", home.path)
    said = run("withdraw", "--key", keys["ben"], "--home", home.path, "--reason", "the ethics board asks us to")
    assert "withdraw by ben" in said
    assert "The ledger remembers this decision; an agent that runs heeds it from its next step on." in said
    said = run("review", "--home", home.path)
    assert "withdraw by ben: the ethics board asks us to" in said
    assert "NOT APPROVED: approval.needed = 2: these terms have 0 of 2 approval(s); ben has withdrawn them on" in said
    for path in home.decisions.glob("*-withdraw-*"):
        path.unlink()
    assert "the ledger remembers" in run("review", "--home", home.path)
    told = [json.loads(line) for line in home.audit_log.read_text(encoding="utf-8").splitlines()]
    signed = [(each["what"], each["steward"]) for each in told if "steward" in each]
    words = {"anna": b"correct horse", "ben": b""}
    of = {name: fingerprint(load_key(keys[name], word).public_key().public_bytes_raw()) for name, word in words.items()}
    people = [("approved", "anna"), ("approved", "anna"), ("approved", "ben"), ("withdrawn", "ben")]
    assert signed[-4:] == [(f"study-{act}", of[name]) for act, name in people]


def test_beside_a_log_that_does_not_hold_nobody_approves_but_anybody_can_stop(home: Home) -> None:
    run("approve", "--home", home.path)
    log = home.audit_log
    log.write_text(log.read_text(encoding="utf-8").replace("study-approved", "study-rejected"), encoding="utf-8")
    before = sorted(home.decisions.iterdir())
    done = CliRunner().invoke(app, ["approve", "--home", str(home.path)])
    assert isinstance(done.exception, PrivacyError)
    assert sorted(home.decisions.iterdir()) == before
    assert "withdraw by this site's own key" in run("withdraw", "--home", home.path)


def test_a_stewards_key_is_private_and_sealed_by_its_passphrase(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("secret\n", encoding="utf-8")
    (tmp_path / "word").chmod(0o600)
    plain_key, sealed = tmp_path / "plain.key", tmp_path / "sealed.key"
    run("steward", "ben", "--out", plain_key)
    shown = run("steward", "anna", "--out", sealed, "--passphrase-file", tmp_path / "word")
    for path in (plain_key, sealed):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "already exists" in refused("steward", "x", "--out", path)
    assert public_text(load_key(sealed, b"secret")) in shown
    assert b"BEGIN PRIVATE KEY" in plain_key.read_bytes()
    for wrong in (b"Secret", b""):
        with pytest.raises(ConfigError, match="the passphrase is wrong, or the file was changed"):
            load_key(sealed, wrong)
    text = sealed.read_text(encoding="utf-8")
    other = public_text(load_key(plain_key, b""))
    sealed.write_text(text.replace(public_text(load_key(sealed, b"secret")), other), encoding="utf-8")
    with pytest.raises(ConfigError, match="the passphrase is wrong, or the file was changed"):
        load_key(sealed, b"secret")
    sealed.write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not a steward's key: public: is missing"):
        load_key(sealed, b"secret")
    sealed.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        load_key(sealed, b"secret")
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    (tmp_path / "empty").chmod(0o600)
    assert "empty: is empty" in refused("steward", "c", "--passphrase-file", tmp_path / "empty")
    assert "NAME: must be 1-32 letters" in refused("steward", "a b")


def test_a_passphrase_can_be_typed(tmp_path: Path) -> None:
    key = tmp_path / "anna.key"
    typed = CliRunner().invoke(app, ["steward", "anna", "--out", str(key), "--passphrase"], input="word\nword\n")
    assert typed.exit_code == 0, typed.output
    assert "word" not in typed.output.replace("passphrase", "")
    assert public_text(load_key(key, b"word")) in typed.output


def test_a_review_states_everything_that_a_steward_answers_for(home: Home) -> None:
    shown = run("review", "--home", home.path)
    study = open_desk(home, None).study
    for words in (
        "Study 'first' asks to train the model 'tabular-gan'",
        "2 other site(s)",
        "purpose not stated: ask the coordinator",
        study.hash.hex(),
        "an unsigned study file",
        "x: a number from 0 to 1",
        "ill: one of no, yes (to be predicted)",
        "Each record counts as a person of its own",
        "(terms: 5), delta 1e-05, to one record",
        "this site epsilon at delta 1e-05",
        "ceiling 0 spent so far, 5 after the study, of 8",
        "distributed: each site adds a share of the noise",
        "masked, so that the coordinator reads only the total",
        "critic: training steps of a network",
        "marginals: statistics",
        "so it would be if every other site worked with the coordinator",
        "3 sites, of which every round needs 3",
        "model 'tabular-gan' of synthfed",
        "domain 'table' of synthfed",
        '"bins": 8',
        "approve by this site's own key",
        "Approved: 1 of 1 needed.",
    ):
        assert words in shown, words
    desk = open_desk(home, None)
    for each in desk.rule.subject.plugins:
        assert each.hash in shown


def test_no_word_of_the_terms_steers_the_terminal_or_is_taken_for_markup(home: Home) -> None:
    study = open_desk(home, None).study
    fields: dict[str, Any] = study.model_dump(mode="json")
    fields["columns"][0]["name"] = "x\x1b[2J\u202e[bold]:smile:"
    fields["columns"][1]["values"] = ["no\r\n\x07", "yes"]
    fields["cohort"]["sites"][1]["controller"] = "\x9b31m"
    fields["purpose"] = "[link=https://example.org]beds[/link]"
    file = home.path / "odd.toml"
    file.write_text(render_study(type(study).model_validate(fields)), encoding="utf-8")
    done = CliRunner().invoke(app, ["review", str(file), "--home", str(home.path)])
    assert done.exit_code == 0, done.exception
    assert "x<U+001B>[2J<U+202E>[bold]:smile:" in done.output
    assert "no<U+000D><U+000A><U+0007>" in done.output
    assert "[link=https://example.org]beds[/link]" in done.output
    assert all(each.isprintable() for each in done.output.replace("\n", ""))
    assert plain("ü 1") == "ü 1"


def test_a_proposal_is_reviewed_approved_and_kept_and_its_signature_is_checked(home: Home, tmp_path: Path) -> None:
    server = ServerHome(tmp_path / "coordinator")
    init_home(server, "127.0.0.1", "127.0.0.1", 1, 2)
    study = home.path / "study.toml"
    path, proposal = propose(server, study, tmp_path / "first.terms.json")
    assert Proposal.parse(path.read_bytes(), where="x") == proposal
    with pytest.raises(ConfigError, match="already exists and is not overwritten"):
        propose(server, study, path)
    assert stat.S_IMODE(server.key.stat().st_mode) == 0o600
    _, again = propose(server, study, tmp_path / "again.terms.json")
    assert again == proposal
    shown = run("review", path, "--home", home.path)
    assert f"the coordinator with key {proposal.fingerprint} (compare by voice); the signature holds" in shown
    assert f'To take proposals from it alone: key = "{proposal.coordinator}" in [coordinator] of site.toml.' in shown
    config = home.config.read_text(encoding="utf-8")
    pinned = config.replace("[coordinator]", f'[coordinator]\nkey = "{proposal.coordinator}"')
    home.config.write_text(pinned, encoding="utf-8")
    assert "(the key that site.toml names)" in run("review", path, "--home", home.path)
    assert "To take proposals from it alone" not in run("review", path, "--home", home.path)
    study.unlink()
    shutil.rmtree(home.decisions)
    assert "approved: the agent serves these terms" in run("approve", path, "--home", home.path)
    assert study.read_bytes() == path.read_bytes()
    assert home.load_study(home.load()).hash.hex() in shown
    other = config.replace("[coordinator]", f'[coordinator]\nkey = "{public_text(load_identity(home.identity))}"')
    home.config.write_text(other, encoding="utf-8")
    assert "is signed by another coordinator's key" in refused("review", path, "--home", home.path)
    path.write_bytes(path.read_bytes().replace(b"first", b"First"))
    assert "was changed, or is not signed by the key" in refused("review", path, "--home", home.path)


def test_only_a_finished_study_is_proposed_and_only_under_a_private_key(home: Home, tmp_path: Path) -> None:
    server = ServerHome(tmp_path / "coordinator")
    init_home(server, "127.0.0.1", "127.0.0.1", 1, 2)
    draft = tmp_path / "draft.toml"
    text = (home.path / "study.toml").read_text(encoding="utf-8")
    draft.write_text(re.sub(r'key = "[^"]+"', 'key = ""', text, count=1), encoding="utf-8")
    with pytest.raises(ConfigError, match="is a draft: put each site's key"):
        propose(server, draft, None)
    assert "is a draft" in refused("approve", draft, "--home", home.path)
    path, _ = propose(server, home.path / "study.toml", None)
    assert path == home.path / "study.terms.json"
    server.key.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others; run `chmod 600` on it"):
        propose(server, home.path / "study.toml", tmp_path / "x")
    server.key.chmod(0o600)
    server.key.write_bytes(b"no key")
    with pytest.raises(ConfigError, match="is not an Ed25519 private key"):
        propose(server, home.path / "study.toml", tmp_path / "x")


def test_a_study_that_does_not_list_this_site_cannot_be_approved(home: Home) -> None:
    file = home.path / "study.toml"
    file.write_text(file.read_text(encoding="utf-8").replace('id = "a"', 'id = "z"'), encoding="utf-8")
    assert "does not list site 'a'" in refused("approve", "--home", home.path)


def test_a_home_without_a_study_asks_for_the_file_that_was_sent(home: Home) -> None:
    (home.path / "study.toml").unlink()
    for command in ("review", "approve", "withdraw"):
        assert "study.toml: cannot be read: No such file or directory; name the study file or proposal" in refused(
            command, "--home", home.path
        )


def test_only_a_withdrawal_speaks_of_what_was_sent(home: Home) -> None:
    assert "What was sent" not in run("reject", "--home", home.path)
    assert "What was sent before cannot be taken back." in run("withdraw", "--home", home.path)


def test_an_approval_of_another_study_than_the_homes_says_so(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    text = (home.path / "study.toml").read_text(encoding="utf-8")
    other.write_text(text.replace('name = "first"', 'name = "second"', 1), encoding="utf-8")
    said = run("approve", other, "--home", home.path)
    assert "approved: the agent serves these terms once they are in the home The home holds another study" in said
    assert f"copy {other} to {home.path / 'study.toml'} for this one" in said
    (home.path / "study.toml").write_text("nonsense", encoding="utf-8")
    assert not keep_terms(open_desk(home, other))


def test_a_site_stops_also_without_the_plugin_beside_a_broken_file_and_with_a_broken_ledger(home: Home) -> None:
    file = home.path / "study.toml"
    file.write_text(file.read_text(encoding="utf-8").replace('"tabular-gan"', '"not-there"'), encoding="utf-8")
    (home.decisions / "odd.json").write_text("{}", encoding="utf-8")
    assert "reject by this site's own key" in run("reject", "--home", home.path)
    home.ledger.write_bytes(b"x")
    desk = open_desk(home, None, is_pinned=False)
    decision, path = decide(desk, "withdraw", desk.identity, None)
    assert path.read_bytes() == decision.content
    with pytest.raises(ConfigError, match="a review needs the plan"):
        reviewed(desk)


def test_nobody_approves_beside_a_decision_that_cannot_be_read(home: Home) -> None:
    (home.decisions / "odd.json").write_text("{}", encoding="utf-8")
    assert "odd.json: is not a steward's decision" in refused("approve", "--home", home.path)
    assert "restore it before you approve anything" in refused("approve", "--home", home.path)
    assert "NOT APPROVED" in run("review", "--home", home.path)


def test_a_reason_is_one_printable_line(home: Home) -> None:
    assert "decision: reason: must be one line of printable text" in refused(
        "reject", "--home", home.path, "--reason", "a\x1bb"
    )


def test_every_page_of_a_review_has_a_heading_and_words(home: Home) -> None:
    found = list(pages(reviewed(open_desk(home, None))))
    assert len({heading for heading, _ in found}) == 8
    assert all(lines for _, lines in found)


def test_a_plugin_that_the_sites_rules_do_not_allow_is_not_loaded_for_a_steward_who_may_still_stop(home: Home) -> None:
    pin = f'plugins = [{{ distribution = "other", version = "1", hash = "{"0" * 64}" }}]'
    text = home.config.read_text(encoding="utf-8")
    assert text.count("[policy]") == 1
    home.config.write_text(text.replace("[policy]", f"[policy]\n{pin}"), encoding="utf-8")
    for command in ("review", "approve"):
        assert "policy.plugins" in refused(command, "--home", home.path)
    assert "withdraw by" in run("withdraw", "--home", home.path)
