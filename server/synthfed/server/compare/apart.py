"""One run of a comparison in a process of its own: its peak memory is its own, and ends with it.

Never hands over anything but JSON, and never lets a run that dies take the others with it.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from synthfed.plugins.files import read_text

from .entries import Contender, DataSet, Peer
from .plan import Wanted
from .results import Run
from .run import blank_run, failed, run


def run_apart(wanted: Wanted, folder: Path | None, python: Path | None = None) -> Run:
    """Return what came of one run of the plan, also where its process was killed.

    Args:
        wanted: the run.
        folder: where files of data sets are.
        python: the interpreter that peers run in; None for this one.
    """
    with tempfile.TemporaryDirectory(prefix="synthfed-compare-") as temporary:
        question, answer = Path(temporary) / "wanted.json", Path(temporary) / "run.json"
        places = {"folder": folder and str(folder), "python": python and str(python)}
        question.write_text(json.dumps(_told(wanted) | places), encoding="utf-8")
        # -P: a module that was planted in the working folder is not imported.
        command = [sys.executable, "-P", "-m", __name__, str(question), str(answer)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
        try:
            return Run.model_validate_json(answer.read_bytes())
        except (OSError, ValidationError):
            return failed(blank_run(wanted), _ended(done.returncode))


def _told(wanted: Wanted) -> dict[str, Any]:
    # What is not set stays unset: a default need not be what a plan may say.
    model = wanted.model
    return {
        "kind": type(model).__name__,
        "model": model if isinstance(model, str) else model.model_dump_json(exclude_unset=True, exclude={"epsilons"}),
        "data": wanted.data.model_dump_json(exclude_unset=True),
        "seed": wanted.seed,
        "split": wanted.split,
        "epsilon": None if wanted.epsilon is None else str(wanted.epsilon),  # JSON knows no infinity
    }


def _heard(told: dict[str, Any]) -> Wanted:
    read: dict[str, Callable[[str], Contender | Peer | str]] = {
        "str": str,
        "Contender": Contender.model_validate_json,
        "Peer": Peer.model_validate_json,
    }
    epsilon = None if told["epsilon"] is None else float(told["epsilon"])
    data = DataSet.model_validate_json(told["data"])
    return Wanted(read[told["kind"]](told["model"]), data, told["seed"], told["split"], epsilon)


def _ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed; where memory is short the system does that"
    return f"its process ended with {code} and no result; what it said is above"


def main(question: str, answer: str) -> None:
    """Do a run that another process told, and write what came of it."""
    told = json.loads(read_text(Path(question)))
    folder, python = (Path(told[name]) if told[name] else None for name in ("folder", "python"))
    done = run(_heard(told), folder, python)
    Path(answer).write_text(done.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
