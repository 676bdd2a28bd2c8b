"""What a site writes down of its decisions, from start to stop, and what the coordinator is told of a refusal."""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.client.federation import Federation, Identities, Join, decoded
from tests.client.homes import approve, copied

from synthfed.client.books.audit_log import AuditLog
from synthfed.client.config import Ceiling, Home
from synthfed.client.consent.standing import NotApproved
from synthfed.client.gate import Gate
from synthfed.client.policy import SitePolicy
from synthfed.client.rules import StudyRefused
from synthfed.client.site import open_agent
from synthfed.protocols.errors import ConfigError, DataError, PrivacyError
from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.messages import Code, Refusal


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def told(path: Path) -> list[str]:
    return [line["what"] for line in lines(path)]


@pytest.fixture
def home(made_home: Home, tmp_path: Path) -> Home:
    return copied(made_home, tmp_path)


def add_rules(home: Home, text: str) -> None:
    config = home.config.read_text(encoding="utf-8")
    home.config.write_text(config.replace("[policy]", f"[policy]\n{text}"), encoding="utf-8")


def test_a_study_that_is_served_is_written_down_with_its_terms_and_counts_until_the_agent_stops(home: Home) -> None:
    with open_agent(home) as agent:
        terms = agent.policy.study.hash.hex()
    assert told(home.audit_log) == [
        *("log-begun", "study-approved", "study-accepted", "data-loaded", "agent-started", "agent-stopped"),
    ]
    _, approved, accepted, loaded, started, stopped = lines(home.audit_log)
    assert (approved["who"], approved["policy"], approved["terms"]) == ("operator", agent.policy.hash.hex(), terms)
    assert accepted["policy"] == agent.policy.hash.hex()
    assert (loaded["study"], loaded["terms"]) == ("first", terms)
    assert (loaded["rows"], loaded["units"], loaded["left_out"]) == (30, 30, 0)
    assert (started["charges"], stopped["charges"]) == (0, 0)


def test_a_study_that_breaks_rules_is_written_down_with_them_and_no_agent_starts(home: Home) -> None:
    add_rules(home, 'epsilon_per_study = 1.0\nmodes = ["local"]')
    with pytest.raises(StudyRefused, match="breaks 2 rules of this site"), open_agent(home):
        pytest.fail("the agent opened")
    *_, refused = lines(home.audit_log)
    assert (refused["what"], refused["study"]) == ("study-refused", "first")
    assert refused["rules"] == ["policy.epsilon_per_study", "policy.modes"]


def test_a_study_that_nobody_approved_is_written_down_as_such(home: Home) -> None:
    shutil.rmtree(home.decisions)
    with pytest.raises(NotApproved, match="0 of 1 approval"), open_agent(home):
        pytest.fail("the agent opened")
    *_, refused = lines(home.audit_log)
    assert (refused["what"], refused["rules"]) == ("study-refused", ["approval"])


def test_data_that_do_not_fit_are_written_down_without_a_value(home: Home) -> None:
    data = home.path / "data.csv"
    data.write_text(data.read_text(encoding="utf-8").replace("0.1,", "4711.0,"), encoding="utf-8")
    with pytest.raises(DataError), open_agent(home):
        pytest.fail("the agent opened")
    assert lines(home.audit_log)[-1]["rules"] == ["DataError"]
    assert "4711" not in home.audit_log.read_text(encoding="ascii")


def test_an_agent_that_ends_by_an_error_is_written_down_with_its_kind(home: Home) -> None:
    with pytest.raises(KeyError), open_agent(home):
        raise KeyError("4711")
    assert (told(home.audit_log)[-1], lines(home.audit_log)[-1]["error"]) == ("agent-stopped", "KeyError")
    assert "4711" not in home.audit_log.read_text(encoding="ascii")


def test_no_agent_starts_over_a_log_that_does_not_hold(home: Home) -> None:
    home.audit_log.write_bytes(home.audit_log.read_bytes().replace(b"agent", b"Agent"))
    with pytest.raises(PrivacyError, match=r"audit\.log: line 1 was changed"), open_agent(home):
        pytest.fail("the agent opened")


def test_an_agent_decides_by_the_limits_of_its_settings(home: Home) -> None:
    add_rules(home, "epsilon_per_year = 8.0")
    with open_agent(home) as agent:
        assert [each.limit.rule for each in agent.gate.standings()] == ["ceiling.epsilon", "policy.epsilon_per_year"]


ROWS = "x,ill,consent\n" + "".join(
    f"{i / 30},{'yes' if i % 3 else 'no'},{('yes', ' broad ', 'no', '')[i % 4]}\n" for i in range(30)
)


def test_rows_without_consent_are_left_out_and_their_number_stays_in_the_log(home: Home) -> None:
    (home.path / "data.csv").write_text(ROWS.replace("0.06666", "never read "), encoding="utf-8")
    add_rules(home, '\n[policy.consent]\ncolumn = "consent"\naccepted = ["yes", "broad"]\n')
    with open_agent(home) as agent:
        assert (len(agent.data.encoded), agent.data.left_out) == (16, 14)
    assert next(each for each in lines(home.audit_log) if each["what"] == "data-loaded")["left_out"] == 14


def test_a_file_without_the_consent_column_or_with_nobody_s_consent_is_refused(home: Home) -> None:
    add_rules(home, '\n[policy.consent]\ncolumn = "consent"\naccepted = ["always"]\n')
    with pytest.raises(DataError, match="lacks column 'consent'"), open_agent(home):
        pytest.fail("the agent opened")
    (home.path / "data.csv").write_text(ROWS, encoding="utf-8")
    with pytest.raises(DataError, match="column 'consent' has no row with an accepted value"), open_agent(home):
        pytest.fail("the agent opened")


def logged(federation: Federation, identities: Identities, path: Path, rules: SitePolicy | None = None) -> AuditLog:
    """Give site a a log, and a gate with rules."""
    log, agent = AuditLog(path, identities["a"]), federation.a
    gate = Gate(federation.policy, Ceiling(epsilon=100.0, delta=1e-5), agent.ledger, rules)
    federation.agents["a"] = replace(agent, log=log, gate=gate)
    return log


def test_sessions_and_refusals_are_written_down_once_each_and_a_coordinator_is_told_a_code_only(
    join: Join, identities: Identities, tmp_path: Path
) -> None:
    federation = join(shaken=False)
    with closing(logged(federation, identities, tmp_path / "audit.log", SitePolicy(epsilon_per_study=0.1))):
        federation.shake_hands()
        for _ in range(3):
            assert decoded(federation.reply("critic")) == Refusal(Code.BUDGET)
        assert decoded(federation.reply("count")) == Refusal(Code.BUDGET)
        federation.shake_hands(b"m" * 32)
        assert federation.code("critic") == Code.BUDGET
        federation.clock.now += 3600
        federation.a.expire(federation.clock.now)
    found = lines(tmp_path / "audit.log")
    assert [line["what"] for line in found] == [
        *("log-begun", "session-opened", "refused", "refused", "session-opened", "refused", "session-over"),
    ]
    _, opened, refused, *_ = found
    assert (opened["who"], opened["sites"], len(opened["session"])) == ("coordinator", ["a", "b", "c"], 64)
    assert (refused["rule"], refused["sum"], refused["study"]) == ("policy.epsilon_per_study", "critic", "first")
    assert refused["terms"] == federation.policy.study.hash.hex()
    assert federation.a.ledger.length == 0


@pytest.mark.parametrize("rule", ["epsilon_per_study", "epsilon_per_year"])
def test_a_refusal_is_the_same_to_the_coordinator_whichever_limit_is_reached(
    join: Join, identities: Identities, tmp_path: Path, rule: str
) -> None:
    federation = join()
    rules = SitePolicy.model_validate({rule: 0.1})
    with closing(logged(federation, identities, tmp_path / "audit.log", rules)):
        replies = [federation.reply("critic")]
    federation = join(ceiling=Ceiling(epsilon=0.1, delta=1e-5))
    replies.append(federation.reply("critic"))
    assert len({messages.encode(decoded(reply), 1) for reply in replies}) == 1
    assert lines(tmp_path / "audit.log")[-1]["rule"] == f"policy.{rule}"


def test_outside_its_hours_a_site_opens_no_session_and_answers_no_round(
    join: Join, identities: Identities, tmp_path: Path
) -> None:
    federation = join()
    in_three_days = (datetime.now(UTC) + timedelta(days=3)).strftime("%a").lower()
    closed, state = SitePolicy(open=(f"{in_three_days} 12:00-13:00",)), federation.a.machine.state
    with closing(logged(federation, identities, tmp_path / "audit.log", closed)):
        assert decoded(federation.reply("critic")) == Refusal(Code.PROTOCOL)
        assert federation.a.machine.state is state
        assert federation.ask("a", messages.Open(b"m" * 32)) == Refusal(Code.PROTOCOL)
    assert [(line["what"], line.get("rule")) for line in lines(tmp_path / "audit.log")][1:] == [
        ("refused", "policy.open")
    ]
    assert federation.a.ledger.length == 0


def test_a_log_that_cannot_be_written_stops_the_agent(join: Join, identities: Identities, tmp_path: Path) -> None:
    federation = join()
    with closing(logged(federation, identities, tmp_path / "audit.log", SitePolicy(epsilon_per_study=0.1))):
        (tmp_path / "audit.log").unlink()
        with pytest.raises(PrivacyError, match="the log cannot be used"):
            federation.reply("critic")
        assert federation.a.ledger.length == 0


def test_a_home_from_before_there_was_a_log_gets_one_when_its_agent_starts(home: Home) -> None:
    home.audit_log.unlink()
    home.audit_log.with_suffix(".mark").unlink()
    with open_agent(home):
        pass
    assert told(home.audit_log)[:2] == ["log-begun", "study-accepted"]


def test_a_site_that_another_roster_names_is_written_down(home: Home) -> None:
    config = home.config.read_text(encoding="utf-8")
    home.config.write_text(config.replace('site = "a"', 'site = "z"'), encoding="utf-8")
    with pytest.raises(ConfigError, match="does not list site 'z'"), open_agent(home):
        pytest.fail("the agent opened")
    assert lines(home.audit_log)[-1]["rules"] == ["ConfigError"]


def test_code_that_changed_since_the_approval_is_not_even_loaded(
    home: Home, install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A plugin's module runs when it is loaded, beside the site's key."""
    own = "from synthfed.plugins.models.gan import Gan as Late\n"
    module = install("late", "[synthfed.models]\nlate = late:Late\n", own)
    text = (home.path / "study.toml").read_text(encoding="utf-8")
    (home.path / "study.toml").write_text(text.replace('"tabular-gan"', '"late"'), encoding="utf-8")
    approve(home)
    monkeypatch.delitem(sys.modules, "late")
    mark = tmp_path / "loaded"
    module.write_text(f"{own}open({str(mark)!r}, 'w').close()\n")
    with pytest.raises(NotApproved, match=r"approved .*late"), open_agent(home):
        pass
    assert not mark.exists()
    assert lines(home.audit_log)[-1]["rules"] == ["approval"]
    approve(home)
    assert mark.exists()
    with open_agent(home):
        pass
