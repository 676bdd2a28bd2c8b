"""Peers: other projects' systems on the very rows of all sites, each in a process and an environment of its own.

Never imports one of them, and never hands one anything but public rows, their schema and the promise.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from synthfed.plugins.api import Domain
from synthfed.plugins.domains.encoding import scalars
from synthfed.plugins.registry import find
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import Categorical, Records, Scalar, Strict

from .entries import DataSet, Peer
from .results import Cost

_SCRIPT: Final = Path(__file__).with_name("peer_process.py")
_SECONDS: Final = 60.0  # of a minute


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a peer drew, what it took, and the versions of what it ran on."""

    records: Records
    cost: Cost
    versions: Mapping[str, str]


class _Answer(Strict):
    missing: str = ""
    cost: Cost | None = None
    versions: Annotated[dict[str, str], Field(default_factory=dict)]


def draw(peer: Peer, data: DataSet, train: Records, seed: int, python: Path | None, folder: Path) -> Drawn:
    """Fit a peer on rows, and return as many rows that it drew.

    Args:
        peer: the system.
        data: the schema and, for a peer that is private, the promise.
        train: the rows of all sites, shape ``(rows, columns)``.
        seed: of the system's own draws, the noise included.
        python: the interpreter of an environment that has the system; None for this one.
        folder: an empty folder for the two processes' files.

    Raises:
        ConfigError: the system or the interpreter is not there.
        DataError: the process ended badly or too late, or what it drew does not fit the schema.
    """
    domain: Domain = find("synthfed.domains", data.domain).make()
    domain.write(folder / "train.csv", data.columns, [train])
    (folder / "spec.json").write_text(json.dumps(told(peer, data, len(train), seed)), encoding="utf-8")
    answer = _run(peer, python, folder)
    if answer.missing or answer.cost is None:
        raise ConfigError(
            f"peer {peer.name!r} needs {answer.missing}; install it (docs/tables.md), "
            "or name an environment that has it with --peers-python PATH"
        )
    table = domain.read(folder / "drawn.csv", data.columns, unit=None, records_per_unit=1)
    return Drawn(table.records, answer.cost, answer.versions)


def _run(peer: Peer, python: Path | None, folder: Path) -> _Answer:
    if python is not None and not python.exists():
        raise ConfigError(f"{python} is not there; name a Python interpreter", where="--peers-python")
    # -P: a module that was planted beside the script or in the working folder is not imported.
    command = [str(python or sys.executable), "-P", str(_SCRIPT), str(folder)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=False,
            timeout=_SECONDS * peer.most_minutes,
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"peer {peer.name!r} was ended after {peer.most_minutes:g} minutes") from None
    except OSError:
        raise ConfigError("is no program that can be run; name a Python interpreter", where="--peers-python") from None
    try:
        return _Answer.model_validate_json((folder / "answer.json").read_bytes())
    except FileNotFoundError:
        raise DataError(f"peer {peer.name!r} ended with {done.returncode}; what it said is above") from None
    except ValidationError:
        raise DataError(f"peer {peer.name!r} left an answer that cannot be read") from None


def told(peer: Peer, data: DataSet, rows: int, seed: int) -> dict[str, Any]:
    """Return what a peer's process is told: see `peer_process`."""
    promise = data.privacy if peer.is_private else None
    return {
        "system": peer.system,
        "options": peer.options,
        "epsilon": promise and promise.epsilon,
        "delta": promise and promise.delta,
        "seed": seed,
        "rows": rows,
        "columns": [_column(column) for column in scalars(data.columns, f"peer {peer.name!r}")],
    }


def _column(column: Scalar) -> dict[str, Any]:
    common = {"name": column.name, "kind": column.kind, "missing": column.missing}
    if isinstance(column, Categorical):
        return common | {"values": list(column.values)}
    return common | {"lower": column.lower, "upper": column.upper, "decimals": getattr(column, "decimals", 0)}
