"""Keeps a site's two processes alive: the agent without a network, the Flower node without data.

Never touches a record, a key's content or the ledger itself.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from synthfed.plugins.processes import Child, close_all, flower_environment, free_port, program, this_program
from synthfed.protocols.errors import ConfigError

from .config import Home, SiteConfig

_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 30.0
_STABLE_S: Final = 60.0
_PERMANENT: Final = frozenset({3, 4, 5, 9})  # exit codes of faults that only a person can mend


@dataclass(slots=True)
class Watched:
    """A child, the program that it starts and cannot do without, and when it may be started again."""

    child: Child
    part: str = ""
    started_s: float = 0.0
    wait_s: float = _FIRST_WAIT_S
    not_before_s: float = 0.0


def agent_command(home: Home) -> list[str]:
    """Return the command that runs a home's agent."""
    return this_program("client", "agent", "--home", str(home.path))


def confined_node_command(home: Home, *, allow_unconfined: bool) -> list[str]:
    """Return the command that hides the home from itself and becomes the Flower node."""
    return this_program(
        "client", "node", "--home", str(home.path), *(["--allow-unconfined"] if allow_unconfined else [])
    )


def node_command(home: Home, config: SiteConfig) -> list[str]:
    """Return the command that runs a home's Flower node; it is given paths and a name, no secret but its own key."""
    absolute = home.path.absolute()
    settings = f'site="{config.site}" socket="{home.socket.absolute()}" ca="{absolute / config.coordinator.ca}"'
    return [
        program("flower-supernode"),
        *("--superlink", config.coordinator.address),
        *("--root-certificates", str(absolute / config.coordinator.ca)),
        *("--auth-supernode-private-key", str(home.node_key.absolute())),
        *("--node-config", settings),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    ]


def supervise(home: Home, stop: Callable[[], bool], say: Callable[[str], None], *, allow_unconfined: bool) -> None:
    """Run agent and node until ``stop`` says so, starting each again with a growing wait when it ends.

    Raises:
        ConfigError: one of them ended for a reason that starting it again cannot mend.
    """
    environment = flower_environment(home.node / "flwr")
    node = confined_node_command(home, allow_unconfined=allow_unconfined)
    watched = [
        Watched(Child("agent", agent_command(home), home.path / "agent.log", environment)),
        Watched(Child("node", node, home.path / "node.log", environment), "flower-superexec"),
    ]
    try:
        while not stop():
            for each in watched:
                _tend(each, say)
            time.sleep(0.2)
    finally:
        close_all([each.child for each in watched])


def _tend(each: Watched, say: Callable[[str], None]) -> None:
    """Start a child that is not running and whose wait is over."""
    now = time.monotonic()
    code = each.child.exit_code()
    if each.part and each.child.has_lost(each.part):
        say(f"{each.child.name} lost its {each.part}")
        close_all([each.child])  # politely: one that signs off may connect again at once
        code = each.child.exit_code()
    if each.child.is_running():
        if now - each.started_s > _STABLE_S:
            each.wait_s = _FIRST_WAIT_S
        return
    if code in _PERMANENT:
        raise ConfigError(f"the {each.child.name} cannot run: {each.child.last_words(1)}", where=str(each.child.log))
    if code is not None and each.not_before_s <= each.started_s:
        say(f"{each.child.name} ended with code {code}: {each.child.last_words(1)} (log: {each.child.log})")
        each.not_before_s = now + each.wait_s
        each.wait_s = min(2 * each.wait_s, _LONGEST_WAIT_S)
    if now >= each.not_before_s:
        each.child.start()
        each.started_s = now
        say(f"{each.child.name} started (process {each.child.pid})")
