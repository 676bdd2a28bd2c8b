"""The register of data sets of this machine's user: which home's ledger keeps the budget of which records.

Never lets a second home spend on records that another one's ledger keeps, and never shows what it knows them by.
"""

import fcntl
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from synthfed.plugins.files import make_private_folder, write_whole
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Strict

from .dataset import SAME, Marks, overlap
from .keys.files import load_secret, write_secret

LEDGER_NAME: Final = "[0-9a-f]{16}"
_KEY_BYTES: Final = 32

Hex = Annotated[str, Field(pattern="^[0-9a-f]*$", max_length=64)]


class KnownData(Strict):
    """The marks of a data set; see `Marks`."""

    place: Hex
    content: Hex
    sketch: Annotated[tuple[Hex, ...], Field(strict=False)]

    @property
    def marks(self) -> Marks:
        """As they are compared."""
        return Marks(self.place, self.content, frozenset(self.sketch))


class Known(Strict):
    """One ledger's file in the register: its name, its home, and all data sets whose budget it has kept."""

    format: Literal[1] = 1
    ledger: Annotated[str, Field(pattern=f"^{LEDGER_NAME}$")]
    home: str
    data: Annotated[tuple[KnownData, ...], Field(strict=False)]


class Register:
    """A folder (mode 0700) with a key and one file for each ledger."""

    def __init__(self, folder: Path) -> None:
        """Make the folder and the key where there are none.

        Raises:
            ConfigError: they cannot be made, or others can read them.
        """
        make_private_folder(folder)
        self._folder = folder
        with self._locked():
            path = folder / "key"
            if not path.exists():
                write_secret(path, secrets.token_bytes(_KEY_BYTES))
            self.key = load_secret(path)

    def check(self, home: Path, ledger: str, marks: Marks, distinct_from: Collection[str]) -> None:
        """Raise ConfigError where another home's ledger keeps the budget of these records.

        Args:
            home: whose records they are.
            ledger: the name of its ledger.
            marks: the records'.
            distinct_from: names of ledgers whose records a person says are others, however alike they look.
        """
        for known in self._all():
            if known.ledger == ledger:
                _check_copy(home, known)
            elif known.ledger not in distinct_from and any(marks.is_like(each.marks) for each in known.data):
                raise ConfigError(
                    f"these records' budget is kept in the ledger of {known.home}, and a second ledger would forget "
                    "what was spent there: run the study in that home (if it is gone, restore it from your backup). "
                    f'Only if the records are of other people, put distinct_from = ["{known.ledger}"] above [ceiling] '
                    f"in {home / 'site.toml'}",
                    where="data",
                )

    def keep(self, home: Path, ledger: str, marks: Marks, distinct_from: Collection[str]) -> None:
        """Note that a home's ledger keeps the budget of these records from here on; ConfigError as `check`."""
        with self._locked():
            self.check(home, ledger, marks, distinct_from)
            path = self._folder / f"{ledger}.json"
            before = self._read(path).data if path.exists() else ()
            others = [each for each in before if not _is_another_state(each.marks, marks)]
            own = KnownData(place=marks.place, content=marks.content, sketch=tuple(sorted(marks.sketch)))
            known = Known(ledger=ledger, home=str(home.absolute()), data=(*others, own))
            if not path.exists() or self._read(path) != known:
                write_whole(path, [known.model_dump_json().encode()])
                path.chmod(0o600)

    def _all(self) -> Iterator[Known]:
        for path in sorted(self._folder.glob("*.json")):
            yield self._read(path)

    def _read(self, path: Path) -> Known:
        try:
            return Known.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):  # whose words could quote a digest
            raise ConfigError("cannot be read or was changed; restore it from your backup", where=str(path)) from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _is_another_state(before: Marks, now: Marks) -> bool:
    """Return whether what was noted before is of the same place and of mostly the same records as now."""
    return before.place == now.place and (before == now or overlap(before.sketch, now.sketch) >= SAME)


def _check_copy(home: Path, known: Known) -> None:
    """Refuse a copied home: both ledgers would go on from what was spent when it was copied."""
    other = Path(known.home)
    try:
        is_copy = (other / "ledger.db").exists() and not other.samefile(home)
    except OSError:  # the other one is out of sight: this home was moved
        is_copy = False
    if is_copy:
        raise ConfigError(
            f"is a copy of {known.home}, or that is one of it, and each ledger would forget what the other spends; go "
            f"on with one of them and take the other's ledger.db away: it is not merged",
            where=str(home),
        )
