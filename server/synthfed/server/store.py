"""A run's folder: the study, the checkpoint from which it goes on, and its progress for people.

Never leaves a half-written file, and never holds anything that was not released.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Final, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from synthfed.plugins.files import room, sync, write_to_watch, write_whole
from synthfed.protocols.errors import ConfigError, SynthfedError
from synthfed.protocols.ids import digest
from synthfed.protocols.schema import Strict
from synthfed.protocols.study import Study, parse_study

FORMAT: Final = 1
_GO_ON: Final = ", then go on with --resume; the last checkpoint stands"

Count = Annotated[int, Field(ge=0)]


@dataclass(slots=True)
class Tally:
    """What a run has asked for and released so far.

    Attributes:
        attempts: rounds asked for, by kind; failed ones count.
        released: rounds whose sum was released, by kind.
        charged: rounds that each site was asked for, by site and kind.
        history: public numbers over the training, one mapping per noted step.
        started: when the run first began, ISO time.
        seconds: time spent in rounds, over all sessions.
    """

    attempts: Counter[str] = field(default_factory=Counter)
    released: Counter[str] = field(default_factory=Counter)
    charged: dict[str, Counter[str]] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    started: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class Status:
    """Where a run stands, for whoever watches it.

    Attributes:
        phase: waiting, handshake, training, trained, paused or failed.
        message: one sentence.
        error: class name of the error that ended the run, if one did.
        step: rounds asked for; ``steps`` of them at most.
        sites: per site whether it takes part now, and epsilon spent as the coordinator counts it.
        rate: rounds per second, lately.
        left_s: estimated seconds left.
        numbers: the trainer's public numbers.
        pid: the process that wrote this.
        at_unix_s: when it did.
    """

    phase: str = "waiting"
    message: str = ""
    error: str = ""
    step: int = 0
    steps: int = 0
    sites: dict[str, dict[str, float | bool]] = field(default_factory=dict)
    rate: float = 0.0
    left_s: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)
    pid: int = 0
    at_unix_s: float = 0.0


class Run:
    """One study's folder at the coordinator."""

    def __init__(self, folder: Path, watch: Callable[[Status], None] | None = None) -> None:
        """Use a folder that exists; ``watch`` is called with every status that is reported here."""
        self.folder = folder
        self._watch = watch

    @classmethod
    def begin(
        cls,
        folder: Path,
        study_text: str,
        settings: Mapping[str, Any],
        *,
        resume: bool,
        watch: Callable[[Status], None] | None = None,
    ) -> Self:
        """Prepare a folder for a new run, or check that an old one can go on.

        Raises:
            ConfigError: there is a run already (without ``resume``), none (with it), or another study's.
        """
        run = cls(folder, watch)
        if resume:
            if not run.exists():
                raise ConfigError("holds no run to resume; leave out --resume", where=str(folder))
            if run.study_text() != study_text:
                asked = run.may_have_asked()
                advice = "a changed study needs a new name" if asked else "it asked no site yet: leave out --resume"
                raise ConfigError(f"holds a run of other terms; {advice}", where=str(folder))
        elif run.exists():
            raise ConfigError(
                "already holds a run of this study, whose charges stand; go on with --resume, or rename the study",
                where=str(folder),
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run._write("settings.json", json.dumps(dict(settings), indent=2).encode())
            run._write("study.toml", study_text.encode())
        except OSError as error:
            raise ConfigError(f"cannot be written: {error.strerror}", where=str(folder)) from None
        run.report(Status(message="starting"))
        return run

    def exists(self) -> bool:
        """Return whether the folder holds a run."""
        return self._study_file.exists()

    def may_have_asked(self) -> bool:
        """Return False only where it is certain that no site was ever asked for a sum, and so charged, in this run.

        What cannot be read may have said so.
        """
        try:
            if self._asked_file.exists() and self._asked_file.stat().st_size:
                return True  # torn or not
            checkpoint = self.load(self.study())
        except (SynthfedError, OSError):
            return True
        return self.status().step > 0 or (checkpoint is not None and checkpoint[1].attempts.total() > 0)

    def study_text(self) -> str:
        """Return the study file's text; ConfigError where there is none."""
        try:
            return self._study_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise ConfigError("cannot be read; restore it from a backup", where=str(self._study_file)) from None

    def study(self) -> Study:
        """Return the study."""
        return parse_study(self.study_text(), where=str(self._study_file))

    def settings(self) -> dict[str, Any]:
        """Return what the operator asked for: seed, addresses, waiting times."""
        settings: dict[str, Any] = json.loads((self.folder / "settings.json").read_text(encoding="utf-8"))
        return settings

    def note_asked(self, tally: Tally) -> None:
        """Make durable what the sites have been asked for, before they are: a crash must not forget a charge."""
        line = _Asked(attempts=tally.attempts, charged=tally.charged).model_dump_json() + "\n"
        try:
            is_new = not self._asked_file.exists()
            with self._asked_file.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync(self.folder)
        except OSError as error:
            raise self._unwritten(self._asked_file, error) from None

    def save(self, study: Study, state: Mapping[str, npt.NDArray[Any]], tally: Tally) -> None:
        """Write the checkpoint: all or nothing, durable when this returns."""
        arrays = {name: np.asarray(array, order="C") for name, array in state.items()}  # keeps single numbers single
        counts = json.dumps(_fields(tally))
        header = {"format": str(FORMAT), "study": study.hash.hex(), "tally": counts, "hash": _hash(arrays, counts)}
        try:
            self._write("checkpoint.safetensors", save(arrays, metadata=header))
            self._asked_file.write_bytes(b"")  # the checkpoint holds it now
        except ConfigError as error:
            raise ConfigError(f"{error}{_GO_ON}") from None
        except OSError as error:
            raise self._unwritten(self._asked_file, error) from None

    def load(self, study: Study) -> tuple[dict[str, npt.NDArray[Any]], Tally] | None:
        """Return the last checkpoint, or None where there is none yet.

        Raises:
            ConfigError: it is damaged or belongs to other terms.
        """
        path = self.folder / "checkpoint.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                header = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        # The others for kinds of numbers and shapes that numpy does not know or cannot hold.
        except (SafetensorError, OSError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(f"cannot be read ({error}); restore it from a backup", where=str(path)) from None
        if header.get("format") != str(FORMAT) or header.get("study") != study.hash.hex():
            raise ConfigError("was written for other terms or by another version", where=str(path))
        counts = header.get("tally", "")
        if header.get("hash") != _hash(state, counts):
            raise ConfigError("is damaged; restore it from a backup", where=str(path))
        try:
            tally = _Counts.model_validate_json(counts).tally()
        except ValidationError:  # the digest is no signature
            raise ConfigError("is damaged; restore it from a backup", where=str(path)) from None
        return state, self._with_asked(tally)

    def report(self, status: Status) -> None:
        """Replace the status; not made durable, it is for watching only, and no study ends because it has no room."""
        status.pid, status.at_unix_s = os.getpid(), time.time()
        write_to_watch(self.folder / "status.json", json.dumps(asdict(status)).encode())
        if self._watch is not None:
            self._watch(status)

    def status(self) -> Status:
        """Return the last reported status."""
        try:
            return Status(**json.loads((self.folder / "status.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Status()

    def _with_asked(self, tally: Tally) -> Tally:
        """Return the tally with what was asked for after it was saved."""
        if self._asked_file.exists():
            for line in self._asked_file.read_text(encoding="utf-8").splitlines():
                try:
                    asked = _Asked.model_validate_json(line)
                except ValidationError:  # torn by the crash, so its round was never posted
                    continue
                if sum(asked.attempts.values()) > tally.attempts.total():
                    tally.attempts, tally.charged = Counter(asked.attempts), _by_site(asked.charged)
        return tally

    @property
    def _asked_file(self) -> Path:
        return self.folder / "asked.jsonl"

    @property
    def _study_file(self) -> Path:
        return self.folder / "study.toml"

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self.folder / name, [content])

    def _unwritten(self, path: Path, error: OSError) -> ConfigError:
        return ConfigError(f"cannot be written: {error.strerror}; {room(error)}{_GO_ON}", where=str(path))


def _hash(arrays: Mapping[str, npt.NDArray[Any]], counts: str) -> str:
    """Return a digest in which every name, type, shape and bit counts: a flipped one must not train on."""
    parts = [counts.encode()]
    for name, array in sorted(arrays.items()):
        parts += [name.encode(), f"{array.dtype.str} {array.shape}".encode(), array.tobytes()]
    return digest("checkpoint", *parts).hex()


def _fields(tally: Tally) -> dict[str, Any]:
    # Not dataclasses.asdict, which turns a Counter's keys into pairs.
    return {each.name: getattr(tally, each.name) for each in fields(tally)}


class _Asked(Strict):
    """What the sites were asked for, as it is written down."""

    attempts: dict[str, Count]
    charged: Mapping[str, Mapping[str, Count]]


class _Counts(_Asked):
    """A whole tally, as it is written down."""

    released: dict[str, Count]
    history: list[dict[str, float]]
    started: str
    seconds: Annotated[float, Field(ge=0)]

    def tally(self) -> Tally:
        """Return it as it is used."""
        return Tally(
            attempts=Counter(self.attempts),
            released=Counter(self.released),
            charged=_by_site(self.charged),
            history=self.history,
            started=self.started,
            seconds=self.seconds,
        )


def _by_site(charged: Mapping[str, Mapping[str, int]]) -> dict[str, Counter[str]]:
    return {site: Counter(counts) for site, counts in charged.items()}
