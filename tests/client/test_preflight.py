"""The preflight of a site: one finding per topic, each of which says what to do where it is not well."""

import base64
import re
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.client.homes import approve, approve_code, make_home

from synthfed.client.check import preflight
from synthfed.client.config import Home
from synthfed.client.entries import Charge
from synthfed.client.keys.identity import load_identity
from synthfed.client.preflight.findings import Finding
from synthfed.client.site import open_agent
from synthfed.client.vault import Ledger
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.privacy.accountant import SampledGaussian
from synthfed.server.certificates import write_certificates

ROWS = "x,ill\n" + "".join(f"{i / 30},{'yes' if i % 3 else 'no'}\n" for i in range(30))
SMALL = {"bins": 8, "fit_steps": 40, "fakes": 128, "batch": 128, "generator_hidden": 32, "critic_hidden": 8}


class Health(BaseHTTPRequestHandler):
    """Answers GET with 200 and the server's ``date``, where one is set in place of the true one."""

    date: str | None = None

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.date or super().date_time_string(timestamp)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ARG002
        return


class Odd(Health):
    date = "yesterday"


class Late(Health):
    date = "Sat, 01 Jan 2022 00:00:00 GMT"


@dataclass(frozen=True)
class Coordinator:
    """A TLS server on this machine and the authority it was certified by."""

    port: int
    ca: str


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[type[Health]], Coordinator]]:
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def started(handler: type[Health]) -> Coordinator:
        folder = tmp_path_factory.mktemp("coordinator")
        ca = write_certificates(folder, ["127.0.0.1"])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        running.append((server, thread))
        return Coordinator(int(server.server_address[1]), ca)

    yield started
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def coordinator(start: Callable[[type[Health]], Coordinator]) -> Coordinator:
    return start(Health)


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory, coordinator: Coordinator) -> Home:
    """A home of site a in which everything is well; tests copy it."""
    return make_home(tmp_path_factory.mktemp("homes"), f"127.0.0.1:{coordinator.port}", coordinator.ca)


@pytest.fixture
def home(tmp_path: Path, well: Home) -> Home:
    shutil.copytree(well.path, tmp_path / "site")
    return Home(tmp_path / "site")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def without_study(home: Home) -> None:
    """Leave the study out, so that only the topics before it are looked at."""
    (home.path / "study.toml").unlink()


def details(home: Home, topic: str) -> str:
    """Return what is not well about a topic; there must be something."""
    found = [finding.detail for finding in preflight(home) if finding.topic == topic and not finding.is_ok]
    assert found, f"nothing is wrong with {topic}"
    return found[0]


def test_a_home_in_order_has_one_good_finding_per_topic_and_is_charged_nothing(home: Home) -> None:
    findings = list(preflight(home))
    assert [finding for finding in findings if not (finding.is_ok or finding.topic == "confinement")] == []
    assert list(dict.fromkeys(finding.topic for finding in findings)) == [
        *("settings", "keys", "study", "disk", "confinement", "coordinator", "clock"),
        *("roster", "plan", "approval", "model", "budget", "data", "timing"),
    ]
    assert sum(finding.topic == "timing" for finding in findings) == 5
    assert any("this site alone adds noise of" in finding.detail for finding in findings if finding.topic == "plan")
    ledger = Ledger(home.ledger, load_identity(home.identity), create=True)
    assert ledger.length == 0
    ledger.close()


def test_without_settings_nothing_else_is_looked_at(tmp_path: Path) -> None:
    findings = list(preflight(Home(tmp_path)))
    assert [(finding.topic, finding.is_ok) for finding in findings] == [("settings", False)]
    assert "site.toml: cannot be read" in findings[0].detail


def test_keys_that_others_can_read_or_that_are_gone_are_found(home: Home) -> None:
    without_study(home)
    home.identity.chmod(0o644)
    assert "identity.key: can be read by others; run `chmod 600` on it" in details(home, "keys")
    home.identity.chmod(0o600)
    home.node_key.chmod(0o640)
    assert "node.key: can be reached by others (mode 0640); run `chmod go= " in details(home, "keys")
    home.node_key.unlink()
    assert "node.key: is missing; restore it from your backup" in details(home, "keys")


def test_a_home_that_others_can_enter_is_found(home: Home) -> None:
    without_study(home)
    home.path.chmod(0o755)
    assert f"can be entered by others (mode 0755); run `chmod go= {home.path}`" in details(home, "keys")


def test_a_missing_study_is_found(home: Home) -> None:
    without_study(home)
    assert "study.toml: cannot be read: No such file" in details(home, "study")


def test_an_authority_that_did_not_certify_the_coordinator_is_found(home: Home, tmp_path: Path) -> None:
    without_study(home)
    (tmp_path / "other").mkdir()
    other = write_certificates(tmp_path / "other", ["127.0.0.1"])
    (home.node / "ca.crt").write_text(other, encoding="utf-8")
    detail = details(home, "coordinator")
    assert f"is not from the authority in {home.node / 'ca.crt'}; compare the invitation's fingerprint" in detail
    assert "then put its `ca` into that file" in detail


def test_a_certificate_for_another_name_is_found(home: Home) -> None:
    without_study(home)
    edit(home.config, "127.0.0.1:", "localhost:")
    assert "its certificate is for another name; mend `address` in " in details(home, "coordinator")


def test_a_missing_authority_is_found(home: Home) -> None:
    without_study(home)
    (home.node / "ca.crt").unlink()
    assert "ca.crt: cannot be read: No such file or directory; put the certificate" in details(home, "coordinator")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that is bound and on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


def test_a_coordinator_that_does_not_listen_is_found(home: Home, coordinator: Coordinator, silent_port: int) -> None:
    without_study(home)
    edit(home.config, f":{coordinator.port}", f":{silent_port}")
    detail = details(home, "coordinator")
    assert "cannot be reached (Connection refused); start `synthfed server run` there, or mend `address` in" in detail


def test_clocks_that_are_far_apart_are_found(
    home: Home, coordinator: Coordinator, start: Callable[[type[Health]], Coordinator]
) -> None:
    without_study(home)
    late = start(Late)
    edit(home.config, f":{coordinator.port}", f":{late.port}")
    (home.node / "ca.crt").write_text(late.ca, encoding="utf-8")
    assert "s from the coordinator's; set this machine's time" in details(home, "clock")


def test_a_roster_with_another_key_or_without_this_site_is_found(home: Home) -> None:
    key = base64.b64encode(load_identity(home.identity).public_key().public_bytes_raw()).decode()
    edit(home.path / "study.toml", key, base64.b64encode(b"z" * 32).decode())
    assert "lists another key for site 'a'; send the coordinator this home's enrolment.json" in details(home, "roster")
    assert details(home, "roster").startswith(f"{home.path / 'study.toml'}: the roster of study 'first'")
    edit(home.config, 'site = "a"', 'site = "z"')
    detail = details(home, "roster")
    assert "does not list site 'z'; ask the coordinator to add this home's enrolment.json and agree" in detail
    assert detail.startswith(f"{home.path / 'study.toml'}: the roster of study 'first'")


def test_a_plugin_that_is_not_installed_is_found_and_what_needs_it_is_left_out(home: Home) -> None:
    edit(home.path / "study.toml", '"tabular-gan"', '"no-such-model"')
    findings = {finding.topic: finding for finding in preflight(home)}
    assert not findings["plan"].is_ok
    assert "study.toml: plugin 'no-such-model': is not installed; mend the name" in findings["plan"].detail
    assert not {"budget", "data", "timing"} & set(findings)


def test_a_ceiling_below_the_study_is_found(home: Home) -> None:
    edit(home.config, "epsilon = 8.0", "epsilon = 2.0")
    detail = details(home, "budget")
    assert "above the ceiling of 2" in detail
    assert "raise [ceiling] or ask for a smaller study" in detail


def test_what_the_ledger_holds_already_counts_against_the_ceiling(home: Home) -> None:
    ledger = Ledger(home.ledger, load_identity(home.identity), create=True)
    charge = Charge(b"e" * 32, "earlier", "count", b"t", 1, b"c", SampledGaussian(1.0, 0.6, 1))
    ledger.settle(ledger.charge(charge), "sent")
    ledger.close()
    assert "above the ceiling of 8" in details(home, "budget")


def test_no_plugin_is_loaded_before_its_code_is_approved(home: Home, install: Callable[..., Path]) -> None:
    install("eager", "[synthfed.models]\neager = eager:Model\n", 'raise RuntimeError("loaded")\n')
    edit(home.path / "study.toml", '"tabular-gan"', '"eager"')
    edit(home.config, "[policy]", "[policy]\nleast_sites = 4")
    detail = details(home, "approval")
    assert "these terms have 0 of 1 approval(s)" in detail
    assert detail.endswith("; before that no plugin is loaded, and no more looked at")
    assert "policy.least_sites: cohort.quorum = 3 is below 4" in details(home, "rules")
    assert not {"plan", "budget", "data"} & {finding.topic for finding in preflight(home)}
    assert "eager" not in sys.modules


def test_a_damaged_ledger_is_found(home: Home) -> None:
    home.ledger.write_bytes(b"not a ledger" * 50)
    assert "restore it, never replace it" in details(home, "budget")


def test_a_table_that_does_not_fit_is_found_without_a_value_of_it(home: Home) -> None:
    edit(home.path / "data.csv", "0.1,", "4711.0,")
    detail = details(home, "data")
    assert "column 'x' has 1 row(s) with a value out of bounds" in detail
    assert "4711" not in detail


def test_an_answer_time_that_is_too_short_is_found(home: Home) -> None:
    edit(home.path / "study.toml", "answer_time_s = 5.0", "answer_time_s = 0.005")
    edit(home.path / "study.toml", "critic_hidden = 8", "critic_hidden = 1024")
    approve_code(home)
    assert "agree on a longer answer_time_s in [privacy]" in details(home, "timing")


def test_all_steps_of_a_round_are_timed_together(home: Home) -> None:
    edit(home.path / "study.toml", 'mode = "distributed"', 'mode = "local"')
    edit(home.path / "study.toml", "critic_hidden = 8", "critic_hidden = 8\nlocal_steps = 3")
    edit(home.path / "study.toml", "answer_time_s = 5.0", "answer_time_s = 0.005")
    approve_code(home)
    detail = details(home, "timing")
    assert detail.startswith("a round of 'critic' with its 3 steps takes ")
    assert detail.endswith("; agree on a longer answer_time_s in [privacy]")


def test_several_steps_in_a_round_are_refused_where_others_noise_is_needed(home: Home) -> None:
    edit(home.path / "study.toml", "critic_hidden = 8", "critic_hidden = 8\nlocal_steps = 3")
    approve_code(home)
    assert "privacy.mode: 'distributed' allows one step in a round, and sum 'critic' asks for 3" in details(
        home, "plan"
    )


def test_a_step_that_was_never_settled_is_found(home: Home) -> None:
    ledger = Ledger(home.ledger, load_identity(home.identity), create=True)
    ledger.charge(Charge(b"e" * 32, "earlier", "count", b"t", 1, b"c", SampledGaussian(0.1, 9.0, 1)))
    ledger.close()
    assert any("synthfed client clear" in finding.detail for finding in preflight(home))


def test_a_home_too_deep_for_its_socket_is_found(home: Home) -> None:
    without_study(home)
    deep = home.path.parent / ("d" * 90)
    home.path.rename(deep)
    assert any("too long for a Unix socket" in finding.detail for finding in preflight(Home(deep)))


def test_an_authority_that_is_no_certificate_is_found(home: Home) -> None:
    without_study(home)
    (home.node / "ca.crt").write_text("not a certificate", encoding="utf-8")
    assert "ca.crt: holds no certificate; put the certificate there that stands in" in details(home, "coordinator")


def test_a_coordinator_without_tls_is_found(home: Home, coordinator: Coordinator) -> None:
    without_study(home)
    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as plain:
        thread = threading.Thread(target=plain.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        edit(home.config, f":{coordinator.port}", f":{plain.server_address[1]}")
        detail = details(home, "coordinator")
        plain.shutdown()
        thread.join()
    assert "cannot be reached (it speaks no TLS); start `synthfed server run` there, or mend `address`" in detail


def test_a_date_that_cannot_be_read_is_no_finding(
    home: Home, coordinator: Coordinator, start: Callable[[type[Health]], Coordinator]
) -> None:
    without_study(home)
    odd = start(Odd)
    edit(home.config, f":{coordinator.port}", f":{odd.port}")
    (home.node / "ca.crt").write_text(odd.ca, encoding="utf-8")
    findings = {finding.topic: finding for finding in preflight(home)}
    assert findings["coordinator"].is_ok
    assert "clock" not in findings


def test_what_the_kernel_permits_is_told_and_nothing_is_hidden_from_this_process(home: Home) -> None:
    without_study(home)
    finding = next(finding for finding in preflight(home) if finding.topic == "confinement")
    assert finding.is_ok == (
        finding.detail == "the agent can give up its network, and the node can lose sight of this home"
    )
    assert finding.is_ok or finding.detail.startswith("this kernel ")
    assert home.load().site == "a"


def test_a_home_that_cannot_be_hidden_from_the_node_is_found(home: Home) -> None:
    without_study(home)
    shutil.rmtree(home.node)  # so that there is nothing to keep visible, on any kernel
    assert "cannot hide this home from the node: run `client node` as another user" in details(home, "confinement")


def test_the_times_that_would_do_on_this_machine_are_told(home: Home) -> None:
    *_, last = (finding for finding in preflight(home) if finding.topic == "timing")
    found = re.fullmatch(
        r"answer_time_s = ([0-9.]+) and statistic_time_s = ([0-9.]+) would do on this machine; .* site decides",
        last.detail,
    )
    assert found is not None
    assert all(0.05 <= float(time_s) < 5 for time_s in found.groups())


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_that_is_none_is_a_finding(home: Home, coordinator: Coordinator, port: str) -> None:
    without_study(home)
    edit(home.config, f":{coordinator.port}", f":{port}")
    assert "coordinator.address: must be HOST:PORT" in details(home, "settings")


def test_a_wrong_option_in_the_study_is_found_with_its_file(home: Home) -> None:
    edit(home.path / "study.toml", "bins = 8", "bins = 1")
    approve_code(home)
    assert "study.toml: model.options: bins: must be at least 2 (is 1)" in details(home, "plan")


def test_an_address_with_an_empty_label_is_a_finding(home: Home) -> None:
    without_study(home)
    edit(home.config, "127.0.0.1:", "coordinator..example:")
    assert "coordinator.address" in details(home, "settings")


def test_a_data_folder_whose_links_lead_outside_stops_check_and_agent(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    (folder / "one.png").symlink_to(home.identity)
    edit(home.config, f'data = "{home.load().data}"', f'data = "{folder}"')
    assert f"{folder}: 1 symbolic link(s) in this folder lead outside it" in details(home, "data")
    with pytest.raises(ConfigError, match="lead outside it"), open_agent(home):
        pass


SECOND = """
import sys
from pathlib import Path
from typer.testing import CliRunner
from synthfed.client.cli import app
from synthfed.client.config import Home
from synthfed.client.site import open_agent

try:
    with open_agent(Home(Path(sys.argv[1]))):
        print("opened")
except Exception as error:
    print(type(error).__name__, error)
result = CliRunner().invoke(app, ["clear", "--home", sys.argv[1]])
print(type(result.exception).__name__, result.exception)
"""


def test_while_an_agent_has_a_home_no_second_process_can_open_or_clear_it(home: Home) -> None:
    with open_agent(home) as agent:
        charge = Charge(b"s" * 32, "first", "critic", b"t" * 32, 1, b"c" * 32, SampledGaussian(0.5, 2.0, 1))
        agent.ledger.charge(charge)
        command = [sys.executable, "-c", SECOND, str(home.path)]
        tried = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        refusals = tried.stdout.splitlines()
        assert len(refusals) == 2, tried.stderr
        assert all(line.startswith("ConfigError") for line in refusals)
        assert all("another agent is using this home; stop it first" in line for line in refusals)
        assert agent.ledger.unsettled() == (1,)


BOUND = """
[[constraints]]
kind = "determines"
determinant = "ill"
determined = "visits"
table = { no = 0, yes = 1 }

[[columns]]
name = "visits"
kind = "integer"
lower = 0
upper = 3
"""


def test_rows_that_break_a_constraint_are_counted_for_the_operator_and_stop_nothing(home: Home) -> None:
    study, data = home.path / "study.toml", home.path / "data.csv"
    study.write_text(study.read_text(encoding="utf-8") + BOUND, encoding="utf-8")
    approve(home)
    header, *rows = data.read_text(encoding="utf-8").splitlines()
    kept = [f"{row},{int(row.endswith('yes'))}" for row in rows]
    for broken, said in ((kept, "0 of 30 rows break it"), ([f"{rows[1]},3", *kept[1:]], "1 of 30 rows break it; ")):
        data.write_text("\n".join([f"{header},visits", *broken]) + "\n", encoding="utf-8")
        findings = [finding for finding in preflight(home) if finding.topic == "constraints"]
        assert len(findings) == 1
        assert findings[0].is_ok
        assert findings[0].detail.startswith(f"constraint 1 (determines): {said}")
        with open_agent(home) as agent:
            assert len(agent.data.encoded) == 30


def test_a_study_that_publishes_rows_by_site_needs_this_sites_own_word(home: Home) -> None:
    study = home.path / "study.toml"
    study.write_text(study.read_text(encoding="utf-8").replace("[privacy]", 'site_column = "hospital"\n\n[privacy]', 1))
    approve_code(home)
    refused = [finding for finding in preflight(home) if finding.topic == "rows by site"]
    assert [finding.is_ok for finding in refused] == [False]
    assert "site.toml: rows_by_site: study 'first' publishes every row under its site's id, in column 'hospital'" in (
        refused[0].detail
    )
    with (
        pytest.raises(ConfigError, match="set `rows_by_site = true` to allow that, or do not take part"),
        open_agent(home),
    ):
        pytest.fail("the agent opened")
    config = home.config.read_text(encoding="utf-8")
    assert "\nrows_by_site = false" in config
    home.config.write_text(config.replace("rows_by_site = false", "rows_by_site = true"), encoding="utf-8")
    approve(home)
    allowed = [finding for finding in preflight(home) if finding.topic == "rows by site"]
    assert [finding.is_ok for finding in allowed] == [True]
    assert allowed[0].detail.startswith("the release tells this site's rows by its name, and so its size")
    with open_agent(home) as agent:
        assert len(agent.data.encoded) == 30


def test_a_study_without_a_site_column_asks_for_no_such_word(home: Home) -> None:
    config = home.config.read_text(encoding="utf-8")
    lines = [line for line in config.splitlines() if not line.startswith("rows_by_site")]
    home.config.write_text("\n".join(lines), encoding="utf-8")
    assert "rows by site" not in {finding.topic for finding in preflight(home)}


def with_rules(home: Home, text: str) -> None:
    edit(home.config, "[policy]\n", f"[policy]\n{text}\n")


def test_every_rule_of_the_site_that_the_study_breaks_is_found(home: Home) -> None:
    with_rules(home, 'epsilon_per_study = 1.0\nmodes = ["local"]\nsigma_floor = 1000.0\npurposes = ["care"]')
    found = [finding for finding in preflight(home) if finding.topic == "rules"]
    assert [finding.is_ok for finding in found] == [False] * 4
    for finding, rule in zip(found, ("epsilon_per_study", "modes", "purposes", "sigma_floor"), strict=True):
        assert finding.detail.startswith(f"{home.config}: policy.{rule}: ")


def test_rules_that_the_study_keeps_are_one_good_finding(home: Home) -> None:
    with_rules(home, 'epsilon_per_study = 6.0\nmodes = ["distributed"]\nsigma_floor = 1e-6\nopen = ["mon 08:00-09:00"]')
    found = [finding for finding in preflight(home) if finding.topic == "rules"]
    assert [(finding.is_ok, finding.detail) for finding in found] == [
        (True, "the study breaks none of this site's rules")
    ]


def test_a_plugin_that_the_rules_do_not_pin_is_found_and_what_needs_it_is_left_out(home: Home) -> None:
    with_rules(home, f'[[policy.plugins]]\ndistribution = "synthfed"\nversion = "0.0.1"\nhash = "{"0" * 64}"')
    findings = list(preflight(home))
    found = [finding.detail for finding in findings if finding.topic == "rules"]
    assert [each.split(": ", 2)[1] for each in found] == ["policy.plugins"] * 2
    assert "model 'tabular-gan' is of distribution 'synthfed', version" in found[0]
    assert not {"plan", "budget", "data", "timing"} & {finding.topic for finding in findings}


def test_a_year_or_a_study_that_does_not_fit_is_found(home: Home) -> None:
    with_rules(home, "epsilon_per_year = 2.0")
    assert "above the epsilon_per_year of 2; raise epsilon_per_year" in details(home, "budget")
    found = [finding for finding in preflight(home) if finding.topic == "budget"]
    assert [finding.is_ok for finding in found] == [True, False]


def test_how_many_rows_lack_consent_is_told(home: Home) -> None:
    with_rules(home, '[policy.consent]\ncolumn = "consent"\naccepted = ["yes"]')
    data = home.path / "data.csv"
    header, *rows = data.read_text(encoding="utf-8").splitlines()
    marked = [f"{row},{'no' if number < 12 else 'yes'}" for number, row in enumerate(rows)]
    data.write_text("\n".join([f"{header},consent", *marked]) + "\n", encoding="utf-8")
    (found,) = (finding for finding in preflight(home) if finding.topic == "consent")
    assert found.detail == "12 row(s) without an accepted value in column 'consent' are left out"


def test_a_log_that_does_not_hold_is_found_and_one_that_is_not_there_yet_is_well(home: Home) -> None:
    home.audit_log.write_bytes(home.audit_log.read_bytes().replace(b"log-begun", b"log-begin"))
    assert "audit.log: line 1 was changed, added, removed or moved" in details(home, "log")
    home.audit_log.unlink()
    home.audit_log.with_suffix(".mark").unlink()
    assert not [finding for finding in preflight(home) if finding.topic == "log"]
    assert not home.audit_log.exists()


def test_records_that_do_not_fit_are_found_and_what_would_be_left_out_can_be_tried(home: Home) -> None:
    with (home.path / "data.csv").open("a", encoding="utf-8") as file:
        file.write("SECRET,yes\n7,perhaps\n")
    detail = details(home, "data")
    assert "3 problems:\n  column 'x' has 1 row(s) with a cell that is not a number" in detail
    for each in (preflight(home, drop_invalid=True), _with_setting(home)):
        told = [finding for finding in each if finding.topic == "data"]
        assert [finding.is_ok for finding in told] == [True, True]
        assert "2 of 32 row(s) left out:\n  column 'x' has" in told[1].detail
        assert "SECRET" not in told[1].detail
    with open_agent(home):
        pass


def _with_setting(home: Home) -> Iterator[Finding]:
    edit(home.config, "drop_invalid = false", "drop_invalid = true")
    return preflight(home)


def test_a_wrong_description_of_a_database_is_found(home: Home) -> None:
    edit(home.config, '"data.csv"', '"data.toml"')
    (home.path / "data.toml").write_text("SECRET", encoding="utf-8")
    for topic in ("confinement", "data"):
        assert "data.toml: can be read by others, and may hold a password" in details(home, topic)


def test_a_home_whose_data_are_in_a_database_is_in_order(home: Home) -> None:
    rows = [line.split(",") for line in ROWS.splitlines()[1:]]
    with sqlite3.connect(home.path / "data.db") as database:
        database.execute("create table patients (x real, ill text)")
        database.executemany("insert into patients values (?, ?)", rows)
    database.close()
    edit(home.config, '"data.csv"', '"data.toml"')
    described = home.path / "data.toml"
    described.write_text('format = 1\nurl = "sqlite:///data.db"\ntable = "patients"\n', encoding="utf-8")
    described.chmod(0o600)
    assert [finding.detail for finding in preflight(home) if finding.topic == "data"] == ["the records fit the schema"]
