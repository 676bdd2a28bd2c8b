"""The commands of a site's stewards: ``synthfed client steward | review | approve | reject | withdraw | release``.

Never decides anything: it shows, asks for a passphrase, signs what a person said and prints what that amounts to.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from synthfed.protocols.errors import ConfigError

from ..config import STEWARD_NAME, Home, study_path
from ..keys.cli import HomeOption, passphrases_of

if TYPE_CHECKING:
    from synthfed.protocols.approval import Act

    from .desk import Desk

TermsArgument = Annotated[
    Path | None, typer.Argument(metavar="[TERMS]", help="A study file or a signed proposal; the home's study else.")
]
KeyOption = Annotated[Path | None, typer.Option("--key", help="A steward's key file; the site's own key else.")]
PassphraseOption = Annotated[
    Path | None, typer.Option("--passphrase-file", help="A file (mode 0600) with the passphrase of the steward's key.")
]
IdentityPassphraseOption = Annotated[
    Path | None,
    typer.Option("--identity-passphrase-file", help="A file (mode 0600) with that of the site's identity key."),
]
ReasonOption = Annotated[str | None, typer.Option(help="Why, in one line; it is signed and kept.")]
_HOME = Path("site")


def steward(
    name: Annotated[str, typer.Argument(help="A name for this person, such as anna.")],
    out: Annotated[Path | None, typer.Option(help="Where the private key goes; NAME.key else.")] = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase to seal the key with.")
    ] = False,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Make a steward's key, and print the line that puts this person into a site's settings."""
    from .stewards import make_key

    if not re.fullmatch(STEWARD_NAME, name):
        raise ConfigError(
            "must be 1-32 letters, digits, dots, underscores and hyphens, first a letter or digit", where="NAME"
        )
    place, secret = out or Path(f"{name}.key"), b""
    if passphrase or passphrase_file:
        secret = _passphrase(passphrase_file, "A passphrase for the new key", is_new=True)
    public = make_key(place, secret)
    _say(f"key           {place}   ({'sealed by the passphrase' if secret else 'not sealed'}; keep it and a copy)")
    _say("Put this line into `stewards` of [approval] in each site.toml where this person decides:")
    _say(f'  {{ name = "{name}", key = "{public}" }},')


def review(
    terms: TermsArgument = None, home: HomeOption = _HOME, identity_passphrase_file: IdentityPassphraseOption = None
) -> None:
    """Show in plain language what a study would do at this site."""
    from .desk import open_desk, reviewed
    from .review import pages

    console = Console(highlight=False, soft_wrap=True)
    place = Home(home)
    desk = open_desk(place, terms, passphrases_of(place, identity_passphrase_file))
    for heading, lines in pages(reviewed(desk)):
        console.print(Text(heading, style="bold"))
        for line in lines:
            console.print(Text(f"  {line}"))


def approve(
    terms: TermsArgument = None,
    home: HomeOption = _HOME,
    key: KeyOption = None,
    passphrase_file: PassphraseOption = None,
    identity_passphrase_file: IdentityPassphraseOption = None,
    reason: ReasonOption = None,
) -> None:
    """Sign that this site takes part in exactly these terms, with exactly the plugins that are installed."""
    from .desk import keep_terms, open_desk, outcome, reserve

    place = Home(home)
    desk = open_desk(place, terms, passphrases_of(place, identity_passphrase_file))
    _decide(desk, "approve", key, passphrase_file, reason)
    is_kept, objection = keep_terms(desk), outcome(desk)
    if objection:
        _say(f"not yet enough: {objection}")
    else:
        reserve(desk)
        _say("reserved: what its plan may spend here, until `synthfed client release` or a withdrawal gives it back")
        _say("approved: the agent serves these terms" + ("" if is_kept else " once they are in the home"))
    if not is_kept:
        held = study_path(desk.home, desk.config)
        _say(f"The home holds another study, which its agent runs: copy {desk.source} to {held} for this one.")


def reject(
    terms: TermsArgument = None,
    home: HomeOption = _HOME,
    key: KeyOption = None,
    passphrase_file: PassphraseOption = None,
    identity_passphrase_file: IdentityPassphraseOption = None,
    reason: ReasonOption = None,
) -> None:
    """Sign that this site does not take part; earlier approvals of these terms no longer count."""
    from .desk import open_desk

    place = Home(home)
    desk = open_desk(place, terms, passphrases_of(place, identity_passphrase_file), is_pinned=False)
    _block(desk, "reject", key, passphrase_file, reason)


def withdraw(
    terms: TermsArgument = None,
    home: HomeOption = _HOME,
    key: KeyOption = None,
    passphrase_file: PassphraseOption = None,
    identity_passphrase_file: IdentityPassphraseOption = None,
    reason: ReasonOption = None,
) -> None:
    """Sign that this site no longer takes part: the agent answers no further step, also of a study that runs."""
    from .desk import open_desk

    place = Home(home)
    desk = open_desk(place, terms, passphrases_of(place, identity_passphrase_file), is_pinned=False)
    _block(desk, "withdraw", key, passphrase_file, reason)


def release(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="Its name, or the beginning of its terms' number.")
    ] = None,
    home: HomeOption = _HOME,
    identity_passphrase_file: IdentityPassphraseOption = None,
) -> None:
    """Say that a study is over: what was reserved for it and not used is free again, and it needs a new approval."""
    from .release import release as give_back

    place = Home(home)
    done = give_back(place, study, passphrases_of(place, identity_passphrase_file))
    _say(f"released      study {done.study_name}, terms {done.study.hex()}")
    for name, rounds in done.unused.items():
        _say(f"  {name}: {rounds:,} round(s) were not used")
    _say("It is served no more until it is approved again; what was charged stands.")


def _block(desk: "Desk", act: "Act", key: Path | None, passphrase_file: Path | None, reason: str | None) -> None:
    from .desk import remember

    decision_s = _decide(desk, act, key, passphrase_file, reason)
    if remember(desk, decision_s):
        _say("No agent runs here; the ledger remembers this decision.")
    else:
        _say("The running agent heeds this from its next step on, and its ledger then remembers it.")
    if act == "withdraw":
        _say("What was sent before cannot be taken back.")


def _decide(desk: "Desk", act: "Act", key: Path | None, passphrase_file: Path | None, reason: str | None) -> int:
    """Sign and write a decision, print it, and return its time."""
    from .desk import decide
    from .stewards import load_key, needs_passphrase

    signer = desk.identity
    if key is not None:
        sealed = needs_passphrase(key)
        signer = load_key(key, _passphrase(passphrase_file, f"Passphrase of {key}") if sealed else b"")
    decision, path = decide(desk, act, signer, reason)
    _say(f"study         {desk.study.name}, terms {desk.study.hash.hex()}")
    _say(f"decision      {act} by {desk.rule.who(decision.steward)}: {path}")
    return decision.at_unix_s


def _passphrase(file: Path | None, prompt: str, *, is_new: bool = False) -> bytes:
    from ..keys.passphrases import checked, read_passphrase

    if file is not None:
        return read_passphrase(file)
    text: str = typer.prompt(prompt, hide_input=True, confirmation_prompt=is_new)
    return checked(text.encode(), where="passphrase")


def _say(line: str) -> None:
    from .words import plain

    Console(highlight=False, soft_wrap=True).print(Text(plain(line)))
