"""A site's home folder: its settings file and where everything else lies, the register outside it, too.

Never reads a record, and never writes outside the home.
"""

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from synthfed.plugins.domains.databases import files_behind
from synthfed.plugins.files import read_text
from synthfed.protocols.enrolment import Address
from synthfed.protocols.errors import ConfigError, describe
from synthfed.protocols.ids import SITE_ID
from synthfed.protocols.proposal import parse_terms
from synthfed.protocols.schema import Strict
from synthfed.protocols.signed import PublicKey
from synthfed.protocols.study import Study

from .policy import SitePolicy

STEWARD_NAME: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,31}"
LONGEST_SOCKET_PATH: Final = 100  # a Unix socket's address holds 108 bytes at most, fewer elsewhere


LedgerName = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


class Ceiling(Strict):
    """What this site's records may spend in all, over every study that ever runs in this home."""

    epsilon: Annotated[float, Field(gt=0, le=100)]
    delta: Annotated[float, Field(gt=0, lt=0.01)]


class Coordinator(Strict):
    """Where the coordinator listens, the authority this site trusts for it, and the key it must sign proposals with."""

    address: Address
    ca: str = "node/ca.crt"
    key: PublicKey | None = None


class Steward(Strict):
    """A person who decides over studies here: a name for the others, and the public key of that person's signatures."""

    name: Annotated[str, Field(pattern=f"^{STEWARD_NAME}$")]
    key: PublicKey


class Approval(Strict):
    """Whose approval a study's terms need; with nobody listed the site's own key gives it."""

    needed: Literal[1, 2] = 1
    stewards: Annotated[tuple[Steward, ...], Field(max_length=16, strict=False)] = ()

    @model_validator(mode="after")
    def _stewards_are_enough_and_distinct(self) -> Self:
        for what in ("name", "key"):
            if len({getattr(each, what) for each in self.stewards}) < len(self.stewards):
                raise ValueError(f"two stewards have one {what}; two approvals must come from two people")
        if self.needed > max(1, len(self.stewards)):
            raise ValueError(f"needed is {self.needed} but {len(self.stewards)} steward(s) are listed; list more")
        return self


class SiteConfig(Strict):
    """The content of ``site.toml``; paths are relative to the home.

    Without ``rows_by_site`` a study with a site column is refused: what it publishes of a site is the site's to give.
    ``distinct_from`` names ledgers of other homes whose records only look like this one's.
    """

    format: Literal[1]
    site: str
    controller: str = ""
    data: str
    drop_invalid: bool = False
    distinct_from: Annotated[tuple[LedgerName, ...], Field(max_length=64, strict=False)] = ()
    study: str = "study.toml"
    rows_by_site: bool = False
    ceiling: Ceiling
    policy: SitePolicy = SitePolicy()
    coordinator: Coordinator
    approval: Approval = Approval()

    @field_validator("site")
    @classmethod
    def _site_is_a_name(cls, value: str) -> str:
        if not SITE_ID.fullmatch(value):
            raise ValueError("must be 1-32 lower-case letters, digits and inner hyphens")
        return value


@dataclass(frozen=True, slots=True)
class Home:
    """A site's folder (mode 0700)."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings, for a person to edit."""
        return self.path / "site.toml"

    @property
    def identity(self) -> Path:
        """The site's Ed25519 private key (mode 0600)."""
        return self.path / "identity.key"

    @property
    def node(self) -> Path:
        """All of the home that the Flower node can see: its own key, the authority, the agent's socket."""
        return self.path / "node"

    @property
    def node_key(self) -> Path:
        """The private key of the site's Flower node (mode 0600)."""
        return self.node / "node.key"

    @property
    def enrolment(self) -> Path:
        """Public keys only, for the coordinator."""
        return self.path / "enrolment.json"

    @property
    def ledger(self) -> Path:
        """The append-only record of every charge."""
        return self.path / "ledger.db"

    @property
    def decisions(self) -> Path:
        """What stewards decided over studies: one signed file each (mode 0700)."""
        return self.path / "decisions"

    @property
    def lock(self) -> Path:
        """Held by the one agent that may use the ledger."""
        return self.path / "agent.lock"

    @property
    def audit_log(self) -> Path:
        """One line for each decision (mode 0600)."""
        return self.path / "audit.log"

    @property
    def agent_log(self) -> Path:
        """What the agent's process writes (mode 0600)."""
        return self.path / "agent.log"

    @property
    def socket(self) -> Path:
        """Where the agent listens (mode 0600)."""
        path = self.node / "agent.sock"
        if len(str(path.absolute()).encode()) > LONGEST_SOCKET_PATH:
            raise ConfigError("its path is too long for a Unix socket; move it to a shorter one", where=str(self.path))
        return path

    def load(self) -> SiteConfig:
        """Return the settings.

        Raises:
            ConfigError: naming the file, the field and what is wrong with it.
        """
        text = read_text(self.config, advice="is this a site's home? `synthfed client init` makes one")
        try:
            return SiteConfig.model_validate(tomllib.loads(text))
        except ValidationError as error:
            raise ConfigError(describe(error), where=str(self.config)) from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"is not valid TOML: {error}", where=str(self.config)) from None

    def load_study(self, config: SiteConfig) -> Study:
        """Return the study in the home: a study file or a signed proposal; whether people agreed is asked later."""
        path = study_path(self, config)
        study, _ = parse_terms(
            read_text(path, advice="`synthfed client approve FILE` puts the study there").encode(), where=str(path)
        )
        if study.is_draft:
            raise ConfigError("is a draft: a site of its roster has no key yet", where=str(path))
        return study


def data_path(home: Home, config: SiteConfig) -> Path:
    """Return where the site's data lie, a file or a folder; a relative path starts at the home."""
    return home.path.absolute() / Path(config.data).expanduser()


def private_paths(home: Home, config: SiteConfig) -> list[Path]:
    """Return all that the node must lose sight of beside the home: data, register, the database that the data name."""
    path = data_path(home, config)
    return [path, register_folder(), *files_behind(path)]


def register_folder() -> Path:
    """Return where this machine's user keeps the register of data sets: outside all homes, as the state it is.

    Raises:
        ConfigError: this user has no home folder, and nothing else says where.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    if not Path(state).is_absolute():  # as the XDG base directory specification has it
        try:
            state = str(Path.home() / ".local" / "state")
        except RuntimeError:
            raise ConfigError("this user has no home folder; give a private one here", where="XDG_STATE_HOME") from None
    return Path(state) / "synthfed" / "datasets"


def study_path(home: Home, config: SiteConfig) -> Path:
    """Return where the agreed study lies."""
    return home.path / config.study


def draft_config(site: str, controller: str, data: str, address: str) -> str:
    """Return a commented ``site.toml``."""
    return f"""\
# What this site allows. The agent reads this file when it starts.
format = 1
site = {json.dumps(site)}
controller = {json.dumps(controller)}   # the legal entity or operator that runs this site
data = {json.dumps(data)}   # a file (.csv, .csv.gz, .parquet, .npz), a folder of images, or a .toml that names a
                              # table of a database (docs/data.md); only the study's columns are read
drop_invalid = false          # whether rows that do not fit the study's columns are left out; else they end the agent
study = "study.toml"          # the agreed study; `synthfed client approve` is this site's consent to it
rows_by_site = false          # whether a study may publish rows under this site's name: its size, rates and gaps

# The most that this site's records may ever spend, over all studies that run in this home.
# A step that would pass it is refused, and the study ends with what it has.
[ceiling]
epsilon = 8.0
delta = 1e-5

# Whose approval a study needs before its first step; with nobody listed, this site's own key gives it.
[approval]
needed = 1                    # 2: two different people must approve
stewards = []                 # {{ name = "...", key = "..." }}, a line as `synthfed client steward NAME` prints it

# Further rules, none of which is set here: docs/site-policy.md has them all.
[policy]

# From the coordinator's invitation.
[coordinator]
address = {json.dumps(address)}
ca = "node/ca.crt"
# key = "..."                 # takes proposals of studies from this key alone; `synthfed client review` prints it
"""
