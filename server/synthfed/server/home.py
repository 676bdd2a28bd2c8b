"""The coordinator's home folder: settings, certificates, enrolled sites and runs.

Never holds a record or a site's private key.
"""

import contextlib
import ipaddress
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from synthfed.plugins.files import make_private_folder, read_text, write_whole
from synthfed.protocols.enrolment import Enrolment, Invitation, parse
from synthfed.protocols.errors import ConfigError, describe
from synthfed.protocols.schema import Strict

from .certificates import write_certificates
from .revocation import Revoked, add_revoked, demand_unrevoked, is_rotated, read_revoked

_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_PORTS: Final = range(1, 65536)

Port = Annotated[int, Field(ge=1, le=65535)]


class ServerConfig(Strict):
    """The content of ``server.toml``: one host, two ports that sites must be able to reach."""

    format: Literal[1]
    host: str
    bind: str
    port: Port
    steps_port: Port

    @property
    def address(self) -> str:
        """Where sites' Flower nodes connect."""
        return f"{self.host}:{self.port}"

    @property
    def steps_address(self) -> str:
        """Where sites' relays connect for the steps of a session."""
        return f"{self.host}:{self.steps_port}"


@dataclass(frozen=True, slots=True)
class ServerHome:
    """A coordinator's folder (mode 0700)."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings."""
        return self.path / "server.toml"

    @property
    def invitation(self) -> Path:
        """What a site needs to find and recognise this coordinator; nothing secret."""
        return self.path / "invitation.json"

    @property
    def key(self) -> Path:
        """The private key that signs proposals of studies (mode 0600)."""
        return self.path / "coordinator.key"

    @property
    def revoked(self) -> Path:
        """The fingerprints of keys that are taken no longer."""
        return self.path / "revoked.json"

    @property
    def logs(self) -> Path:
        """Where the coordinator's processes write."""
        return self.path / "logs"

    def load(self) -> ServerConfig:
        """Return the settings; ConfigError names file and field."""
        text = read_text(self.config, advice="is this a coordinator's home? `synthfed server init` makes one")
        try:
            return ServerConfig.model_validate(tomllib.loads(text))
        except ValidationError as error:
            raise ConfigError(describe(error), where=str(self.config)) from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"is not valid TOML: {error}", where=str(self.config)) from None

    def sites(self) -> dict[str, Enrolment]:
        """Return every enrolled site."""
        files = sorted((self.path / "sites").glob("*.json"))
        enrolled = [parse(Enrolment, read_text(file), where=str(file)) for file in files]
        return {enrolment.site: enrolment for enrolment in enrolled}

    def run_folder(self, study_name: str) -> Path:
        """Return where a study's checkpoint and progress lie."""
        return self.path / "runs" / study_name


def init_home(home: ServerHome, host: str, bind: str, port: int, steps_port: int) -> Invitation:
    """Create a coordinator's home and return the invitation for sites.

    Raises:
        ConfigError: the folder already is one or cannot be written, or sites could not use a host or port.
    """
    if home.config.exists():
        raise ConfigError("already is a coordinator's home; choose another --home", where=str(home.path))
    _check_addresses({"--host": host, "--bind": bind}, {"--port": port, "--steps-port": steps_port})
    make_private_folder(home.path)
    try:
        for name in ("sites", "runs", "logs"):
            (home.path / name).mkdir(exist_ok=True)
        authority = write_certificates(home.path, _distinct([host, "localhost", "127.0.0.1"]))
    except FileExistsError:
        raise ConfigError("already holds certificates; choose another --home", where=str(home.path)) from None
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(home.path)) from None
    invitation = Invitation(address=f"{host}:{port}", ca=authority)
    write_whole(home.invitation, [invitation.model_dump_json(indent=2).encode(), b"\n"])
    # Written last: its presence says that the home is complete.
    settings = {"host": host, "bind": bind, "port": port, "steps_port": steps_port}
    lines = ["format = 1", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    write_whole(home.config, ["\n".join([*lines, ""]).encode()])
    return invitation


def enrol(home: ServerHome, file: Path) -> Enrolment:
    """Check a site's enrolment file and keep it; the site's node may connect at the next run.

    One under a new identity key replaces the earlier one if the key that was enrolled has signed the rotation.

    Raises:
        ConfigError: the file is wrong, its key was revoked, or the site is enrolled with other keys.
    """
    home.load()
    enrolment = parse(Enrolment, read_text(file), where=str(file))
    enrolment.verify(where=str(file))
    demand_unrevoked(home.revoked, (enrolment.roster_entry,), where=str(file))
    known, revoked = home.sites().get(enrolment.site), read_revoked(home.revoked)
    if known is not None and known != enrolment and not is_rotated(known, enrolment, revoked):
        raise ConfigError(
            f"site {enrolment.site!r} is enrolled with other keys ({known.fingerprint}); remove "
            f"{home.path / 'sites' / enrolment.site}.json only after the site confirmed the change by voice",
            where=str(file),
        )
    kept = home.path / "sites" / f"{enrolment.site}.json"
    write_whole(kept, [enrolment.model_dump_json(indent=2).encode(), b"\n"])
    return enrolment


def revoke(home: ServerHome, named: str, now_unix_s: float) -> tuple[Revoked, str]:
    """Revoke a site's enrolled key, or one by its fingerprint; whose it is, is enrolled no longer.

    Returns:
        the key, and the site that must be enrolled anew, empty for none.

    Raises:
        ConfigError: no such site is enrolled, or the list of revoked keys cannot be read or written.
    """
    home.load()
    revoked, site = add_revoked(home.revoked, named, home.sites(), now_unix_s)
    if site:  # only now: a key that is not listed could be enrolled again
        (home.path / "sites" / f"{site}.json").unlink()
    return revoked, site


def _check_addresses(hosts: Mapping[str, str], ports: Mapping[str, int]) -> None:
    """Refuse, by option, what no certificate or invitation can name."""
    for option, host in hosts.items():
        if not _is_host(host):
            raise ConfigError("must be a DNS name or an IPv4 address; IPv6 is not supported", where=option)
    for option, port in ports.items():
        if port not in _PORTS:
            raise ConfigError("must be from 1 to 65535", where=option)
    if len(set(ports.values())) < len(ports):
        raise ConfigError("the two ports must differ", where="--steps-port")


def _is_host(host: str) -> bool:
    labels = host.split(".")
    if labels[-1].isdigit():  # then it can only be meant as an address
        with contextlib.suppress(ValueError):
            return str(ipaddress.IPv4Address(host)) == host
        return False
    return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
