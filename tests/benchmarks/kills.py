"""Kill -9 of the real program ``synthfed client agent`` at random moments: what its ledger then holds.

Prints what it found and writes JSON; it is no test, and ends with an error where a ledger does not hold what was
answered. Never uses a home twice: each kill has a copy of its own, and a register of its own.

    python tests/benchmarks/kills.py --kills 200 --out docs/kills.json
"""

import argparse
import base64
import json
import os
import platform
import random
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.client.channel import connect, read_frame
from synthfed.client.config import Home
from synthfed.client.consent.desk import decide, open_desk
from synthfed.client.enrol import init_home
from synthfed.client.entries import GENESIS, events_of
from synthfed.client.keys.identity import load_identity
from synthfed.client.vault import Ledger
from synthfed.plugins.pinning import Pinned, pin
from synthfed.plugins.processes import flower_environment, this_program
from synthfed.protocols.enrolment import Invitation
from synthfed.protocols.errors import RemoteProtocolError, TransportError
from synthfed.protocols.privacy.accountant import epsilon
from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.aggregator import Aggregator
from synthfed.protocols.secagg.keys import Ephemeral
from synthfed.protocols.secagg.session import Fresh
from synthfed.protocols.secagg.site import SiteMachine
from synthfed.protocols.study import Study
from synthfed.server.study_file import render_study

SEED = 200
ROUNDS_S = 1.5
"""How long after its start an agent that answers rounds may live."""

OPTIONS = {"refine": True, "bins": 8, "fit_steps": 40, "fakes": 128, "generator_hidden": 32, "critic_hidden": 8}


@dataclass
class Outcome:
    """What was found over all kills.

    Attributes:
        before_serving: kills while the agent started.
        in_a_step: kills after which a charge had no outcome.
        answered: rounds whose answers had left, sums or the news that one was given up.
        charged: rounds that the ledgers hold.
        entries: how many of each kind all ledgers hold.
        violations: what did not hold, with the number of the kill.
    """

    before_serving: int = 0
    in_a_step: int = 0
    answered: int = 0
    charged: int = 0
    entries: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


def make_home(folder: Path, other: Ed25519PrivateKey) -> Home:
    """Return the approved home of one of two sites."""
    invitation = folder / "invitation.json"
    invitation.write_text(Invitation(address="127.0.0.1:1", ca="none").model_dump_json(), encoding="utf-8")
    home = Home(folder / "a")
    enrolment, _ = init_home(home, invitation, "a", "", "data.csv")
    rows = "".join(f"{i / 30},{'yes' if i % 3 else 'no'}\n" for i in range(30))
    (home.path / "data.csv").write_text(f"x,ill\n{rows}", encoding="utf-8")
    key = base64.b64encode(other.public_key().public_bytes_raw()).decode()
    study = Study.model_validate(
        {
            "format": 1,
            "name": "kills",
            "target": "ill",
            "privacy": {
                "mode": "local",
                "epsilon": 5.0,
                "delta": 1e-5,
                "units_per_site": 40,
                "sample_rate": 0.5,
                "steps": 200,
                "answer_time_s": 0.05,
                "statistic_time_s": 0.05,
            },
            "model": {"plugin": "tabular-gan", "options": OPTIONS},
            "cohort": {
                "tolerated": 1,
                "quorum": 2,
                "sites": [{"id": "a", "key": enrolment.identity}, {"id": "b", "key": key}],
            },
            "columns": [
                {"name": "x", "kind": "real", "lower": 0, "upper": 1},
                {"name": "ill", "kind": "categorical", "values": ["no", "yes"]},
            ],
        }
    )
    (home.path / "study.toml").write_text(render_study(study), encoding="utf-8")
    desk = open_desk(home, None)
    decide(desk, "approve", desk.identity, None)
    return home


def ask_until_killed(home: Home, pinned: Pinned, other: Ed25519PrivateKey) -> int:
    """Shake hands with an agent and ask for rounds as long as it lives; return how many it answered."""
    policy, numbers, answered = pinned.policy, iter(range(1, 10_000)), 0
    aggregator, machine = Aggregator(policy, secrets.token_bytes(32)), SiteMachine(policy, "b", other)
    with closing(connect(home.socket)) as connection:

        def ask(message: messages.Message) -> messages.Message | None:
            try:
                connection.sendall(messages.encode(message, next(numbers)))
                frame = read_frame(connection)
            except (OSError, RemoteProtocolError):  # it was killed
                return None
            return messages.decode(frame)[0] if frame else None

        opening = aggregator.open()
        ephemeral = Ephemeral.generate(policy.suite)
        fresh = Fresh(ephemeral, secrets.token_bytes(32), secrets.token_bytes(32), 0, GENESIS, 0.0)
        hello = ask(opening)
        if not isinstance(hello, messages.Hello):
            return 0
        aggregator.add_hello("a", hello)
        aggregator.add_hello("b", machine.hello(opening, fresh))
        roll = aggregator.roll()
        confirm = ask(roll)
        if not isinstance(confirm, messages.Confirm):
            return 0
        aggregator.add_confirm("a", confirm)
        aggregator.add_confirm("b", machine.confirm(roll, {}))
        if ask(aggregator.seal()) is None:
            return 0
        for kind in (each for each in policy.plan.kinds for _ in range(each.sum.rounds)):
            size = sum(int(np.prod(shape)) for _, shape in kind.sum.payload)
            reply = ask(aggregator.round(("a", "b"), kind.sum.name, bytes(4 * size)))
            if reply is None:
                return answered
            is_given_up = reply == messages.Refusal(messages.Code.ABANDONED)  # it was too late, on a busy machine
            answered += is_given_up or isinstance(reply, messages.Masked)
            aggregator.give_up()
    return answered


def kill_once(home: Home, pinned: Pinned, other: Ed25519PrivateKey, rng: random.Random, start_s: float) -> int:
    """Start an agent, kill it at a random moment, and return how many rounds it had answered; -1: it never served."""
    environment = {**flower_environment(home.path / "flwr"), "XDG_STATE_HOME": str(home.path.parent / "state")}
    command, answered = this_program("client", "agent", "--home", str(home.path)), -1
    is_early, began_s = rng.random() < 0.25, time.monotonic()
    with (
        (home.path / "agent.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as agent,
    ):
        until_s = began_s + rng.uniform(0.5, 1.1) * start_s if is_early else float("inf")
        while not home.socket.exists() and agent.poll() is None and time.monotonic() < until_s:
            time.sleep(0.005)
        if home.socket.exists():
            timer = threading.Timer(0.0 if is_early else rng.uniform(0, ROUNDS_S), agent.kill)
            timer.start()
            try:
                answered = ask_until_killed(home, pinned, other)
            except TransportError:
                answered = 0
            timer.join()
        agent.kill()
    return answered


def look(home: Home, answered: int, number: int, found: Outcome) -> None:
    """Add what a killed agent's ledger holds to the outcome; the chain is verified by opening it."""
    ceiling = home.load().ceiling
    with closing(Ledger(home.ledger, load_identity(home.identity))) as ledger:
        book, unsettled = ledger.book, len(ledger.unsettled())
        claims = {
            "no answer without a charge, and one step at most between them": ledger.length - max(answered, 0) in (0, 1),
            "one open step at most": unsettled <= 1,
            "what serves has reserved and noted its data set": answered < 0
            or (bool(book.reserved) and bool(book.dataset)),
            "the ceiling holds": epsilon(ledger.events(), ceiling.delta) <= ceiling.epsilon,
            "and with what is reserved": epsilon(events_of(book.costs + book.kept_for_others()), ceiling.delta)
            <= ceiling.epsilon,
        }
        ledger.clear()  # the chain goes on from there
        length = ledger.length
    with closing(Ledger(home.ledger, load_identity(home.identity))) as again:
        claims["a restart loses nothing"] = again.length == length
    found.before_serving += answered < 0
    found.in_a_step += unsettled
    found.answered += max(answered, 0)
    found.charged += length
    found.entries.update(charge=length, reserve=len(book.reserved), dataset=bool(book.dataset))
    found.violations += [f"kill {number}: {claim}" for claim, holds in claims.items() if not holds]


def main() -> None:
    """Kill agents and write what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("kills.json"))
    wanted = parser.parse_args()
    rng, found, begun_s = random.Random(SEED), Outcome(), time.monotonic()
    other = Ed25519PrivateKey.generate()
    with tempfile.TemporaryDirectory(prefix="synthfed-kills-", dir="/tmp") as name:
        template = make_home(Path(name), other)
        pinned = pin(template.load_study(template.load()))
        start_s = 2.0
        for number in range(wanted.kills):
            place = Path(name) / str(number)
            home = Home(Path(shutil.copytree(template.path, place / "a")))
            one_s = time.monotonic()
            answered = kill_once(home, pinned, other, rng, start_s)
            if answered >= 0:
                start_s = 0.8 * start_s + 0.2 * max(0.5, time.monotonic() - one_s - ROUNDS_S / 2)
            look(home, answered, number, found)
            shutil.rmtree(place)
            if number % 20 == 19:
                print(f"{number + 1} kills, {len(found.violations)} violations", flush=True)
    taken_s = time.monotonic() - begun_s
    machine = {"processor": platform.processor(), "python": platform.python_version(), "cores": os.cpu_count()}
    result = {"kills": wanted.kills, **vars(found), "seconds": round(taken_s), "seed": SEED, "machine": machine}
    wanted.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    if found.violations:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
