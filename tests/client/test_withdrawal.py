"""A real agent in a process of its own, whose steward withdraws while a study runs."""

import base64
import itertools
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.client.homes import ROWS, approve, make_home

from synthfed.client.channel import connect, read_frame
from synthfed.client.config import Home
from synthfed.client.keys.identity import load_identity
from synthfed.client.site import SimulatedSite, open_agent
from synthfed.client.vault import Ledger
from synthfed.plugins.pinning import pin
from synthfed.plugins.processes import this_program
from synthfed.protocols.errors import ConfigError, TransportError
from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.aggregator import Aggregator
from synthfed.protocols.secagg.messages import Code, Masked, Refusal

Ask = Callable[[str, messages.Message], messages.Message]


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[Home, dict[str, SimulatedSite]]]:
    """Return a home of site a, and two sites in this process that are in its study."""
    home = make_home(tmp_path, "127.0.0.1:1", "no certificate")
    (tmp_path / "rows.csv").write_text(ROWS, encoding="utf-8")
    others = {site: SimulatedSite(tmp_path / site, site, tmp_path / "rows.csv") for site in ("b", "c")}
    file = home.path / "study.toml"
    text = file.read_text(encoding="utf-8").replace("statistic_time_s = 5.0", "statistic_time_s = 0.5")
    text = re.sub(r"(\[model.options\]\n).*?\n\n", r"\1\n", text, flags=re.DOTALL)  # statistics alone: soon ready
    for site, other in others.items():
        key = base64.b64encode(other.public_key).decode()
        text = text.replace(base64.b64encode(site.encode() * 32).decode(), key)
    file.write_text(text, encoding="utf-8")
    approve(home)
    try:
        yield home, others
    finally:
        for other in others.values():
            other.close()


def connected(home: Home, agent: subprocess.Popen[bytes]) -> socket.socket:
    deadline_s = time.monotonic() + 60
    while True:
        try:
            return connect(home.socket)
        except TransportError:
            assert agent.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.05)


def test_a_withdrawal_during_a_study_stops_the_next_step_of_the_running_agent(
    sites: tuple[Home, dict[str, SimulatedSite]],
) -> None:
    home, others = sites
    pinned = pin(home.load_study(home.load()))
    for other in others.values():
        other.open(pinned)
    agent = subprocess.Popen(this_program("client", "agent", "--home", str(home.path)), stderr=subprocess.PIPE)
    try:
        with connected(home, agent) as connection:
            numbers = itertools.count(1)

            def ask(site: str, message: messages.Message) -> messages.Message:
                frame = messages.encode(message, next(numbers))
                if site != "a":
                    return messages.decode(others[site].answer(frame))[0]
                connection.sendall(frame)
                return messages.decode(read_frame(connection))[0]

            aggregator = shaken(Aggregator(pinned.policy, b"n" * 32), ask)
            kind = next(kind for kind in pinned.policy.plan.kinds if not kind.sum.payload)
            asked = [aggregator.round(("a", "b", "c"), kind.sum.name, b"")]
            assert isinstance(ask("a", asked[0]), Masked)
            aggregator.give_up()
            said = subprocess.run(
                this_program("client", "withdraw", "--home", str(home.path)), capture_output=True, text=True, check=True
            )
            assert "The running agent heeds this from its next step on" in said.stdout
            asked.append(aggregator.round(("a", "b", "c"), kind.sum.name, b""))
            for message in reversed(asked):  # neither a new one, nor the one that it has answered
                assert ask("a", message) == Refusal(Code.STOPPED)
            for path in home.decisions.glob("*-withdraw-*"):
                path.unlink()
            assert ask("a", messages.Open(b"o" * 32)) == Refusal(Code.STOPPED)
    finally:
        agent.terminate()
        _, log = agent.communicate(timeout=30)
    assert re.search(rb"refused: approval.needed = 1: .* this site's own key has withdrawn them", log), log
    with closing(Ledger(home.ledger, load_identity(home.identity))) as ledger:
        assert ledger.length == 1
        assert ledger.blocked_unix_s(pinned.policy.study.hash) > 0
    with pytest.raises(ConfigError, match="the ledger remembers that they were rejected"), open_agent(home):
        pytest.fail("the agent opened")


def shaken(aggregator: Aggregator, ask: Ask) -> Aggregator:
    """Return the aggregator after the handshake of all sites."""
    sites = ("a", "b", "c")
    for site in sites:
        hello = ask(site, aggregator.open())
        assert isinstance(hello, messages.Hello)
        aggregator.add_hello(site, hello)
    roll = aggregator.roll()
    for site in sites:
        confirm = ask(site, roll)
        assert isinstance(confirm, messages.Confirm)
        aggregator.add_confirm(site, confirm)
    seal = aggregator.seal()
    for site in sites:
        assert ask(site, seal) == messages.Ready()
    return aggregator
