"""The command ``synthfed plugins``: what is installed, what it says of itself, whether it conforms, and a new one.

Never imports a plugin to list it, and never loads one that was made for another synthfed.
"""

import inspect
import json
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from synthfed.protocols.errors import ConfigError, PluginError

if TYPE_CHECKING:
    from ..registry import Plugin
    from ..testing import Conformance, Report

app: Final = typer.Typer(
    help="List, show, check and start plugins.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

NameArgument = Annotated[str, typer.Argument(help="The plugin's name, as a study gives it.")]
KindOption = Annotated[str | None, typer.Option("--kind", help="model, domain or audit, where a name has several.")]
OptionOption = Annotated[list[str], typer.Option("--option", help="An option of the model, KEY=VALUE; repeatable.")]


@app.command("list")
def list_(
    load: Annotated[bool, typer.Option("--load", help="Import each plugin to see whether it can be.")] = False,
) -> None:
    """List every installed plugin; none is imported unless asked for."""
    from ..distributions import broken
    from ..registry import GROUPS, installed
    from .portrait import kind_of

    table = Table("name", "kind", "distribution", "version", "state")
    notes = []
    for group in GROUPS:
        plugins = installed(group)
        names = [plugin.name for plugin in plugins]
        for plugin in plugins:
            state, note = _state(plugin, names.count(plugin.name) > 1, load)
            table.add_row(*map(escape, (plugin.name, kind_of(plugin), plugin.distribution, plugin.version, state)))
            notes += [note] if note else []
    console = Console()
    console.print(table)
    notes += [f"distribution {name!r}: its entry points cannot be read; reinstall it" for name in broken()]
    for note in dict.fromkeys(notes):
        console.print(escape(note), soft_wrap=True)


@app.command()
def show(name: NameArgument, kind: KindOption = None, option: OptionOption = []) -> None:  # noqa: B006  (typer's form)
    """Print what a plugin says of itself, and the hash that sites pin."""
    from .portrait import kind_of, look_up

    plugin, options = look_up(name, kind), _options(option)
    _check_for_models(plugin, bool(options))
    found = plugin.load()
    console = Console()
    console.print(
        f"[bold]{escape(plugin.name)}[/bold]   {kind_of(plugin)} of {escape(plugin.distribution)} {plugin.version}"
    )
    console.print(f"class   {escape(plugin.target)}", soft_wrap=True)
    console.print(f"hash    {plugin.hash.hex()}", soft_wrap=True)
    console.print()
    console.print(escape(_documentation(found)), soft_wrap=True)
    with plugin.blamed("cannot be shown"):
        if kind_of(plugin) == "audit":
            console.print(escape(f"asks    {found.question} (of rows: {', '.join(found.needs)})"), soft_wrap=True)
        if kind_of(plugin) == "domain":
            console.print(escape(f"writes  files that end with {found.suffix}"), soft_wrap=True)
        if kind_of(plugin) == "model":
            _show_model(console, plugin, options)


@app.command()
def check(
    name: NameArgument,
    kind: KindOption = None,
    option: OptionOption = [],  # noqa: B006  (typer's form)
    waive: Annotated[list[str], typer.Option(help="A check that need not pass, CHECK=REASON; repeatable.")] = [],  # noqa: B006
    data: Annotated[list[str], typer.Option(help="A kind of data to check a model on; all by default.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Ask the conformance kit; exit code 9 where the plugin does not conform."""
    from ..testing.suite import Report
    from .portrait import look_up

    plugin = look_up(name, kind)
    asked = _checks(plugin, _options(option), _pairs(waive, "--waive", "CHECK=REASON"), data)
    report = Report(plugin.load().__name__, _run(asked))
    if as_json:
        document = {
            "plugin": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "hash": plugin.hash.hex(),
            "is_conformant": report.is_conformant,
            "results": [asdict(each) for each in report.results],
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        _print(report, len({each.check.name for each in asked}))
    if not report.is_conformant:
        wrong = report.failed()
        message = f"does not conform: {', '.join(wrong)}; mend it, or waive a check with a reason"
        raise PluginError(message, plugin=plugin.name, distribution=plugin.distribution)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the model plugin: lower-case letters, digits, inner hyphens.")],
    into: Annotated[Path, typer.Option(help="Folder in which the package's folder is made.")] = Path(),
) -> None:
    """Write a package with a small working model, its test and its description."""
    from .start import start

    folder = start(name, into)
    console = Console()
    console.print(f"package   {escape(str(folder))}", soft_wrap=True)
    console.print(escape(f'next      cd {folder} && pip install -e ".[test]" && pytest'), soft_wrap=True)


def _state(plugin: "Plugin", is_twin: bool, load: bool) -> tuple[str, str]:
    """Return a plugin's state in a word, and a sentence where it is not ok."""
    from ..registry import TWICE

    who = f"plugin {plugin.name!r} (distribution {plugin.distribution})"
    if plugin.unfit:
        return "unfit", f"{who}: {plugin.unfit}"
    if is_twin:
        return "twice", f"{who}: {TWICE}"
    if load:
        try:
            plugin.load()
        except PluginError as error:
            return "broken", str(error)
    return "ok", ""


def _documentation(found: type) -> str:
    module = inspect.getdoc(sys.modules[found.__module__]) or ""
    own = inspect.getdoc(found) or ""
    return "\n\n".join(part for part in (module, own) if part)


def _show_model(console: Console, plugin: "Plugin", options: dict[str, Any]) -> None:
    from .portrait import described, sums_of

    table = Table("option", "default", "what it is")
    for option in described(plugin.load().Options):
        table.add_row(*map(escape, (option.name, option.default, option.description)))
    console.print(table)
    try:
        data, sums = sums_of(plugin, options)
    except ConfigError as error:
        if options:
            raise
        console.print(escape(str(error)), soft_wrap=True)
        return
    table = Table(title=f"sums for {data}", title_justify="left", box=None, padding=(0, 1))  # fits 80 characters
    for heading in ("sum", "family", "numbers", "norm", "rate", "rounds", "share", "coins", "steps"):
        table.add_column(heading, no_wrap=True)
    for each in sums:
        numbers = (
            each.dim,
            each.clip_norm,
            each.sample_rate,
            each.rounds,
            round(each.share, 3),
            each.coins,
            each.steps,
        )
        table.add_row(escape(each.name), each.family, *(f"{number:g}" for number in numbers))
    console.print(table)


def _checks(plugin: "Plugin", options: dict[str, Any], waivers: dict[str, str], data: list[str]) -> "list[Conformance]":
    from ..testing import audit_conformance, conformance, domain_conformance
    from .portrait import kind_of

    _check_for_models(plugin, bool(options or data))
    found, kind = plugin.load(), kind_of(plugin)
    if kind == "model":
        return conformance(found, options=options, waivers=waivers, kinds=data or None)
    return (domain_conformance if kind == "domain" else audit_conformance)(found, waivers=waivers)


def _check_for_models(plugin: "Plugin", is_asked: bool) -> None:
    """Refuse what only a model can be told, where it was asked of another plugin."""
    from .portrait import kind_of

    if is_asked and kind_of(plugin) != "model":
        raise ConfigError(f"{plugin.name!r} is of kind {kind_of(plugin)}; --option and --data are for models")


def _run(asked: "list[Conformance]") -> Any:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("checks", total=len(asked))
        results = []
        for each in asked:
            progress.update(task, description=each.check.name)
            results.append(each.result())
            progress.advance(task)
    return tuple(results)


def _print(report: "Report", checks: int) -> None:
    console = Console()
    colours = {"failed": "red", "waived": "yellow", "not asked": "dim"}
    for each in report.notable():
        heading = f"[{colours[each.outcome]}]{each.outcome:<9}[/]  {each.check}  ({each.case})"
        console.print(f"{heading}\n           {escape(each.sentence)}", soft_wrap=True)
    cases = list(dict.fromkeys(each.case for each in report.results))
    passed = sum(each.outcome == "passed" for each in report.results)
    console.print(
        f"{report.plugin}: {passed} of {len(report.results)} passed ({checks} checks on {', '.join(cases)})",
        soft_wrap=True,
    )


def _options(pairs: list[str]) -> dict[str, Any]:
    return {key: _value(text) for key, text in _pairs(pairs, "--option", "KEY=VALUE").items()}


def _value(text: str) -> Any:
    """Return a value as a study's file would give it; what is no TOML is taken for text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _pairs(pairs: list[str], where: str, form: str) -> dict[str, str]:
    split = [pair.partition("=") for pair in pairs]
    if any(not sign or not key for key, sign, _ in split):
        raise ConfigError(f"must have the form {form}", where=where)
    return {key: value for key, _, value in split}
