"""Keeps a site's two processes alive: the agent without a network, the Flower node without data.

Never touches a record, a key's content or the ledger itself.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from synthfed.plugins.processes import Child, close_all, flower_environment, free_port, program, this_program

from .config import Home, SiteConfig

_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 30.0
_STABLE_S: Final = 60.0


@dataclass(slots=True)
class Watched:
    """A child and when it may be started again."""

    child: Child
    started_s: float = 0.0
    wait_s: float = _FIRST_WAIT_S
    not_before_s: float = 0.0


def agent_command(home: Home) -> list[str]:
    """Return the command that runs a home's agent."""
    return this_program("client", "agent", "--home", str(home.path))


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


def supervise(home: Home, config: SiteConfig, stop: Callable[[], bool], say: Callable[[str], None]) -> None:
    """Run agent and node until ``stop`` says so, starting each again with a growing wait when it ends."""
    environment = flower_environment(home.path / "flwr")
    watched = [
        Watched(Child("agent", agent_command(home), home.path / "agent.log", environment)),
        Watched(Child("node", node_command(home, config), home.path / "node.log", environment)),
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
    if each.child.is_running():
        if now - each.started_s > _STABLE_S:
            each.wait_s = _FIRST_WAIT_S
        return
    if code is not None and each.not_before_s <= each.started_s:
        say(f"{each.child.name} ended with code {code}: {each.child.last_words(1)} (log: {each.child.log})")
        each.not_before_s = now + each.wait_s
        each.wait_s = min(2 * each.wait_s, _LONGEST_WAIT_S)
    if now >= each.not_before_s:
        each.child.start()
        each.started_s = now
        say(f"{each.child.name} started (process {each.child.pid})")
