"""A site's consent: what its agent makes of the decisions in its home, and of what somebody did to them."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.client.federation import Identities, Join, is_sum

from synthfed.client.config import Home, SiteConfig, draft_config
from synthfed.client.consent.decisions import next_time, read_decisions, state_of, write_decision
from synthfed.client.consent.standing import Consent, rule_of
from synthfed.client.vault import Ledger
from synthfed.protocols.approval import NEVER, Act, Decision, PluginPin, Subject
from synthfed.protocols.errors import ConfigError, PrivacyError
from synthfed.protocols.secagg.messages import Code, Hello, Open, Refusal
from synthfed.protocols.signed import public_text

PINS = (
    PluginPin(kind="model", name="gan", distribution="synthfed", version="0.1.0", hash="01" * 32),
    PluginPin(kind="domain", name="table", distribution="synthfed", version="0.1.0", hash="02" * 32),
)
SUBJECT = Subject("a", "0a" * 32, "03" * 32, PINS)
ANNA, BEN, EVE = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (7, 8, 9))
NOW_S = 1000


def settings(needed: int, *stewards: str) -> str:
    text = draft_config("a", "", "data.csv", "127.0.0.1:1")
    return text.replace("needed = 1 ", f"needed = {needed} ").replace(
        "stewards = []", f"stewards = [{', '.join(stewards)}]"
    )


def listed(name: str, key: Ed25519PrivateKey) -> str:
    return f'{{ name = "{name}", key = "{public_text(key)}" }}'


class Site:
    """A home with a ledger, and an agent's view of its consent."""

    def __init__(self, folder: Path, identity: Ed25519PrivateKey, text: str) -> None:
        self.home = Home(folder)
        self.home.config.write_text(text, encoding="utf-8")
        self.identity = identity
        self.ledger = Ledger(self.home.ledger, identity, create=True)
        self.consent = self.agent()

    @property
    def config(self) -> SiteConfig:
        return self.home.load()

    def agent(self, subject: Subject = SUBJECT) -> Consent:
        rule = rule_of(self.home, self.config, subject, public_text(self.identity))
        return Consent(rule, self.ledger, lambda: float(NOW_S))

    def say(self, act: Act, at_unix_s: int, key: Ed25519PrivateKey | None = None, subject: Subject = SUBJECT) -> Path:
        return write_decision(self.home.decisions, Decision.of(key or self.identity, act, subject, at_unix_s))

    def restart(self) -> Consent:
        self.ledger.close()
        self.ledger = Ledger(self.home.ledger, self.identity)
        return self.agent()


@pytest.fixture
def site(tmp_path: Path, identities: Identities) -> Iterator[Site]:
    made = Site(tmp_path, identities["a"], settings(1))
    yield made
    made.ledger.close()


@pytest.fixture
def pair(tmp_path: Path, identities: Identities) -> Iterator[Site]:
    """Return a site where Anna and Ben must both approve."""
    made = Site(tmp_path, identities["a"], settings(2, listed("anna", ANNA), listed("ben", BEN)))
    yield made
    made.ledger.close()


def test_without_a_decision_a_site_does_not_consent_and_says_what_to_run(site: Site) -> None:
    with pytest.raises(ConfigError) as caught:
        site.consent.demand()
    assert str(caught.value) == (
        f"{site.home.decisions}: approval.needed = 1: these terms have 0 of 1 approval(s); look with `synthfed client "
        f"review --home {site.home.path}`, then run `synthfed client approve --home {site.home.path}`"
    )


def test_with_nobody_listed_the_sites_own_key_approves_and_no_other(site: Site) -> None:
    site.say("approve", 1, EVE)
    assert "0 of 1" in site.consent.objection()
    site.say("approve", 1)
    assert site.consent.objection() == ""
    site.consent.demand()


def test_where_stewards_are_listed_the_sites_own_key_approves_nothing_but_may_stop(pair: Site) -> None:
    for key in (pair.identity, ANNA):
        pair.say("approve", 1, key)
    assert "these terms have 1 of 2 approval(s) (there is that of anna)" in pair.consent.objection()
    assert pair.consent.objection().endswith(f"`synthfed client approve --home {pair.home.path} --key FILE`")
    pair.say("approve", 2, ANNA)
    assert "1 of 2" in pair.consent.objection()
    pair.say("approve", 1, BEN)
    assert pair.consent.objection() == ""
    pair.say("withdraw", 3)
    assert "0 of 2 approval(s); this site's own key has withdrawn them on 1970-01-01" in pair.consent.objection()


def test_a_withdrawal_counts_at_the_next_look_and_ends_with_a_later_approval(site: Site) -> None:
    site.say("approve", 1)
    assert site.consent.objection() == ""
    site.say("withdraw", 2)
    assert "this site's own key has withdrawn them" in site.consent.objection()
    site.say("approve", 2)
    assert site.consent.objection() != ""
    site.say("approve", 3)
    assert site.consent.objection() == ""


def test_a_withdrawal_that_was_seen_stands_when_its_file_is_gone_also_after_a_restart(site: Site) -> None:
    site.say("approve", 1)
    withdrawal = site.say("withdraw", 2)
    assert site.consent.objection()
    withdrawal.unlink()
    for consent in (site.consent, site.restart()):
        assert "the ledger remembers that they were rejected, withdrawn or released" in consent.objection()
    site.say("approve", 3)
    assert site.agent().objection() == ""


def test_a_changed_or_foreign_file_stops_everything_until_it_is_mended(site: Site) -> None:
    path = site.say("approve", 1)
    good = path.read_bytes()
    assert site.consent.objection() == ""
    for content in (good[:-1], good + b" ", b"", b"\xff" * 70_000):
        path.write_bytes(content)
        assert "nothing is served beside a decision that cannot be read" in site.consent.objection()
    path.write_bytes(good)
    assert site.consent.objection() == ""
    (site.home.decisions / "notes.txt").write_text("hello", encoding="utf-8")
    assert "notes.txt: is not a steward's decision" in site.consent.objection()


def test_a_file_or_folder_that_cannot_be_read_stops_everything(site: Site) -> None:
    site.say("approve", 1)
    (site.home.decisions / "folder.json").mkdir()
    os.mkfifo(site.home.decisions / "pipe.json")
    assert "folder.json: is not a file" in site.consent.objection()
    (site.home.decisions / "folder.json").rmdir()
    assert "pipe.json: is not a file" in site.consent.objection()
    (site.home.decisions / "pipe.json").unlink()
    (site.home.decisions / "link.json").symlink_to("nowhere")
    assert state_of(site.home.decisions) is None
    assert "link.json: is not a file" in site.consent.objection()
    (site.home.decisions / "link.json").unlink()
    assert site.consent.objection() == ""
    site.home.decisions.rename(site.home.path / "aside")
    assert "0 of 1" in site.consent.objection()
    site.home.decisions.write_text("a file", encoding="utf-8")
    assert state_of(site.home.decisions) is None
    assert "cannot be read: Not a directory" in site.consent.objection()


@pytest.mark.parametrize(
    ("subject", "said"),
    [
        (
            replace(SUBJECT, study="0b" * 32),
            "0 of 1 approval(s); what was approved here has other terms than these, 0b0b0b0b0b0b: another study, or "
            "the file was changed since; look with",
        ),
        (replace(SUBJECT, site="b"), "0 of 1 approval(s); look with"),
        (replace(SUBJECT, policy="04" * 32), "this site's own key approved another plan of the same terms"),
        (
            replace(SUBJECT, plugins=(PINS[0].model_copy(update={"hash": "0f" * 32}), PINS[1])),
            f"approved another model plugin: synthfed 0.1.0, hash {'01' * 8}; here is synthfed 0.1.0, hash {'0f' * 8}",
        ),
        (
            replace(SUBJECT, plugins=(PINS[0], PINS[1].model_copy(update={"kind": "model"}))),
            "approved another model plugin",
        ),
    ],
)
def test_an_approval_of_anything_else_than_what_is_pinned_says_in_what_it_differs(
    site: Site, subject: Subject, said: str
) -> None:
    site.say("approve", 1)
    assert site.agent().objection() == ""
    assert said in site.agent(subject).objection()


def test_a_reason_cannot_steer_the_terminal_of_who_reads_it(site: Site) -> None:
    decision = Decision.of(site.identity, "reject", SUBJECT, 5, "too dear [bold]")
    write_decision(site.home.decisions, decision)
    assert "this site's own key has rejected them on 1970-01-01 00:00 UTC (too dear [bold])" in site.consent.objection()


def test_an_approval_dated_far_ahead_is_refused_for_nothing_could_overtake_it(site: Site) -> None:
    site.say("approve", NOW_S + 86_400)
    assert site.consent.objection() == ""
    site.say("approve", NOW_S + 86_401)
    assert "an approval is dated in the future" in site.consent.objection()


@pytest.mark.parametrize("act", ["reject", "withdraw"])
def test_a_block_dated_far_ahead_stops_everything_and_ends_no_terms_for_good(site: Site, act: Act) -> None:
    site.say("approve", NOW_S)
    far = site.say(act, 2**40)
    assert site.consent.objection().startswith("a rejection or withdrawal is dated in the future; set this machine's")
    assert site.ledger.blocked_unix_s(bytes.fromhex(SUBJECT.study)) == NOW_S + 86_400
    decisions, _ = read_decisions(site.home.decisions)
    assert next_time(decisions, SUBJECT.study, NEVER, NOW_S) == NOW_S + 1  # so that a block can still be signed
    far.unlink()
    assert "the ledger remembers that they were rejected, withdrawn" in site.restart().objection()
    site.say("approve", NOW_S + 86_401)
    later = Consent(
        rule_of(site.home, site.config, SUBJECT, public_text(site.identity)), site.ledger, lambda: NOW_S + 9.0
    )
    assert later.objection() == ""


def test_a_new_decision_is_later_than_all_before_it_whatever_the_clock_says(site: Site) -> None:
    site.say("approve", 70)
    decisions, problems = read_decisions(site.home.decisions)
    assert not problems
    assert next_time(decisions, SUBJECT.study, NEVER, 10) == 71
    assert next_time(decisions, SUBJECT.study, 90, 10) == 91
    assert next_time(decisions, SUBJECT.study, 2**40, 10) == 2**40
    assert next_time(decisions, SUBJECT.study, 90, 1000) == 1000
    assert next_time(decisions, "0b" * 32, NEVER, 10) == 10


def test_a_decision_lies_under_a_name_of_its_own_and_is_never_written_again(site: Site) -> None:
    first, second = site.say("approve", 1), site.say("approve", 2)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in (first, second)}
    assert len(before) == 2
    assert site.say("approve", 1) == first
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in (first, second)} == before
    assert site.home.decisions.stat().st_mode & 0o777 == 0o700


def test_a_look_sees_a_change_that_keeps_name_size_time_and_inode(site: Site) -> None:
    path = site.say("approve", 1)
    assert site.consent.objection() == ""
    was = path.stat()
    path.write_bytes(b"x" * was.st_size)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert site.consent.objection() != ""  # by the time of the entry's own last change


def test_a_block_that_the_ledger_cannot_take_stops_the_agent(site: Site) -> None:
    site.say("withdraw", 2)
    with closing(sqlite3.connect(site.home.ledger)) as db:
        db.execute("INSERT INTO entries VALUES (1, 0, 'clearance', '{}', x'00')")  # somebody without the key
        db.commit()
    with pytest.raises(PrivacyError, match="entry 1 was changed, added or removed"):
        site.consent.objection()


@pytest.mark.parametrize(
    ("needed", "stewards", "message"),
    [
        (2, (), "approval: needed is 2 but 0 steward"),
        (2, (listed("anna", ANNA),), "approval: needed is 2 but 1 steward"),
        (2, (listed("anna", ANNA), listed("ben", ANNA)), "approval: two stewards have one key"),
        (1, (listed("anna", ANNA), listed("anna", BEN)), "approval: two stewards have one name"),
        (3, (), r"approval\.needed: must be 1 or 2 \(is 3\)"),
        (1, ('{ name = "a b", key = "x" }',), r"approval\..*name: does not have the form"),
        (1, ('{ name = "anna", key = "AAAA" }',), r"approval\..*key: must be an Ed25519 public key"),
    ],
)
def test_settings_that_could_not_mean_two_people_are_refused(
    tmp_path: Path, needed: int, stewards: tuple[str, ...], message: str
) -> None:
    home = Home(tmp_path)
    home.config.write_text(settings(needed, *stewards), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        home.load()


def test_a_withdrawal_stops_a_running_study_at_the_next_step_with_a_code_only_and_nothing_is_charged(
    join: Join, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.say("approve", 1)
    federation = join(objection=site.consent.objection)
    assert is_sum(federation.reply())
    charged = federation.a.ledger.length
    site.say("withdraw", 2)
    assert federation.code() is Code.STOPPED
    assert federation.code("critic") is Code.STOPPED
    assert federation.a.ledger.length == charged
    assert "this site's own key has withdrawn them" in caplog.text
    site.say("approve", 3)
    federation.shake_hands(b"o" * 32)  # its keys are gone
    assert is_sum(federation.reply())


def test_a_site_that_does_not_consent_does_not_even_shake_hands(join: Join, site: Site) -> None:
    federation = join(objection=site.consent.objection, shaken=False)
    assert federation.ask("a", Open(b"n" * 32)) == Refusal(Code.STOPPED)
    assert isinstance(federation.ask("b", Open(b"n" * 32)), Hello)
