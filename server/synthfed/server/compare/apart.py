"""One run of a comparison in a process of its own: its peak memory is its own, and ends with it.

Never hands over anything but JSON, and never lets a run that dies take the others with it.
"""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from synthfed.plugins.files import read_text

from .plan import Contender, DataSet, Wanted
from .results import Run
from .run import blank_run, failed, run


def run_apart(wanted: Wanted, folder: Path | None) -> Run:
    """Return what came of one run of the plan, also where its process was killed.

    Args:
        wanted: the run.
        folder: where files of data sets are.
    """
    with tempfile.TemporaryDirectory(prefix="synthfed-compare-") as temporary:
        question, answer = Path(temporary) / "wanted.json", Path(temporary) / "run.json"
        question.write_text(json.dumps(_told(wanted)), encoding="utf-8")
        # -P: a module that was planted in the working folder is not imported.
        command = [sys.executable, "-P", "-m", __name__, str(question), str(answer), *([str(folder)] if folder else [])]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
        try:
            return Run.model_validate_json(answer.read_bytes())
        except (OSError, ValidationError):
            return failed(blank_run(wanted), _ended(done.returncode))


def _told(wanted: Wanted) -> dict[str, Any]:
    # What is not set stays unset: a default need not be what a plan may say.
    name, model = (wanted.model, None) if isinstance(wanted.model, str) else ("", wanted.model)
    return {
        "trivial": name,
        "model": model and model.model_dump_json(exclude_unset=True),
        "data": wanted.data.model_dump_json(exclude_unset=True),
        "seed": wanted.seed,
    }


def _heard(told: dict[str, Any]) -> Wanted:
    model = told["trivial"] or Contender.model_validate_json(told["model"])
    return Wanted(model, DataSet.model_validate_json(told["data"]), told["seed"])


def _ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed; where memory is short the system does that"
    return f"its process ended with {code} and no result; what it said is above"


def main(question: str, answer: str, folder: str | None = None) -> None:
    """Do a run that another process told, and write what came of it."""
    done = run(_heard(json.loads(read_text(Path(question)))), Path(folder) if folder else None)
    Path(answer).write_text(done.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
