"""The command ``synthfed plugins``: listing without imports, showing, checking, and starting a package that works."""

import doctest
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from synthfed.plugins.catalogue import portrait
from synthfed.plugins.catalogue.cli import app
from synthfed.plugins.catalogue.portrait import described
from synthfed.plugins.cli import EXIT_CODES
from synthfed.plugins.models.gan import Gan
from synthfed.protocols.errors import ConfigError, PluginError

Install = Callable[..., Path]
SMALL = ["--option", "fit_steps=20", "--option", "fakes=64", "--option", "bins=6", "--data", "a table of numbers"]


def call(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))


def refused(kind: type[Exception], *arguments: str) -> str:
    done = call(*arguments)
    assert isinstance(done.exception, kind), done.output
    return str(done.exception)


def test_the_list_names_every_plugin_without_importing_one(install: Install) -> None:
    install("quiet_one", "[synthfed.models]\nquiet = quiet_one:Quiet\n", "raise RuntimeError('imported')\n")
    install("old_one", "[synthfed.audits]\nold = old_one:Old\n", "raise RuntimeError('imported')\n", "synthfed>=99")
    install("lost_one", "[synthfed.models]\nno entry point\n", "")
    output = call("list").output
    rows = {line.split("│")[1].strip(): line for line in output.splitlines() if line.startswith("│")}
    assert [part.strip() for part in rows["quiet"].split("│")[1:-1]] == ["quiet", "model", "quiet_one", "2.5", "ok"]
    assert "unfit" in rows["old"]
    assert "domain" in rows["table"]
    assert "plugin 'old' (distribution old_one): was made for synthfed >=99" in output
    assert "distribution 'lost_one': its entry points cannot be read" in output
    assert not {"quiet_one", "old_one"} & set(sys.modules)


def test_the_list_tells_what_is_broken_when_asked_to_import(install: Install) -> None:
    install("raising_one", "[synthfed.models]\nraising = raising_one:Raising\n", "raise RuntimeError('a bug')\n")
    assert "broken" not in call("list").output
    output = call("list", "--load").output
    assert "plugin 'raising' (distribution raising_one): cannot be loaded (RuntimeError: a bug)" in output
    assert output.count("broken") == 1


def test_the_list_tells_of_names_that_two_distributions_have(install: Install) -> None:
    install("twin_one", "[synthfed.models]\ntwin = twin_one:Twin\n", "")
    install("twin_two", "[synthfed.models]\ntwin = twin_two:Twin\n", "")
    output = call("list").output
    assert output.count(" twice ") == 2
    assert "uninstall all but one" in output
    install("twin_three", "[synthfed.models]\nown twin = a:A\nown twin = b:B\n", "")
    assert call("list").output.count("plugin 'own twin' (distribution twin_three): is declared more than once") == 1
    assert "(distribution twin_three 2.5)" in refused(PluginError, "show", "own twin")


def test_a_model_shows_its_words_options_sums_and_hash() -> None:
    output = call("show", "tabular-gan").output
    assert "the original GAN, for tables" in output
    assert "cells of a numeric column; if not set" in output
    assert "sums for a table of mixed columns" in output
    assert "marginals" in output
    digest = next(line.split()[1] for line in output.splitlines() if line.startswith("hash"))
    assert len(bytes.fromhex(digest)) == 32


def test_the_example_in_the_portrait_is_right() -> None:
    assert doctest.testmod(portrait).failed == 0


def test_every_option_of_the_table_gan_is_described() -> None:
    assert all(option.description and option.default for option in described(Gan.Options))


def test_domains_and_audits_show_what_they_write_and_ask() -> None:
    assert "files that end with .csv" in call("show", "table").output
    assert "asks    How well does a model trained" in call("show", "utility").output


def test_a_name_of_two_kinds_wants_to_know_which(install: Install) -> None:
    points = "[synthfed.models]\ndouble = double_one:A\n[synthfed.audits]\ndouble = double_one:B\n"
    methods = "    def unfit(self, study): ...\n    def run(self, study, rows, seed): ...\n"
    install("double_one", points, f"class B:\n    '''B.'''\n    question, needs = 'Why?', ()\n{methods}")
    assert "plugins of several kinds (model, audit)" in refused(ConfigError, "show", "double")
    assert "Why?" in call("show", "double", "--kind", "audit").output
    assert "'sort' is no kind" in refused(ConfigError, "show", "double", "--kind", "sort")
    assert "is not installed" in refused(PluginError, "show", "no-such-plugin")


def test_options_that_suit_nothing_are_told_and_not_passed_over() -> None:
    for name in ("show", "check"):
        assert "no_such" in refused(ConfigError, name, "made", "--option", "no_such=1")
        assert "'table' is of kind domain; --option" in refused(ConfigError, name, "table", "--option", "a=1")


def test_a_model_without_options_or_sums_is_told_with_its_distribution(install: Install) -> None:
    methods = "    def __init__(self, study): ...\n    def private(self): ...\n    def trainer(self, seed): ...\n"
    source = (
        "from pydantic import BaseModel\n"
        f"class Idle:\n    'Idle.'\n{methods}    def sums(self): ...\n"
        f"class Mean:\n    'Mean.'\n    Options = BaseModel\n{methods}    def sums(self): raise SystemExit('no')\n"
    )
    install("poor_one", "[synthfed.models]\nidle = poor_one:Idle\nmean = poor_one:Mean\n", source)
    assert "'idle' (distribution poor_one): cannot be shown (AttributeError:" in refused(PluginError, "show", "idle")
    assert "'mean' (distribution poor_one): cannot declare its sums (SystemExit: no); mend" in refused(
        PluginError, "show", "mean"
    )


def test_a_default_is_shown_as_a_study_would_set_it() -> None:
    assert [option.default for option in described(Gan.Options) if option.name == "critic_ladder"] == ["[1]"]


def test_a_conformant_plugin_passes_and_says_on_what() -> None:
    done = call("check", "tabular-gan", *SMALL)
    assert done.exit_code == 0, done.output
    assert "Gan: 75 of 75 passed (75 checks on a table of numbers)" in done.output
    assert call("check", "table").exit_code == call("check", "fidelity").exit_code == 0


def test_results_come_as_json() -> None:
    document = json.loads(CliRunner().invoke(app, ["check", "table", "--json"]).stdout)
    assert document["is_conformant"] is True
    assert {each["outcome"] for each in document["results"]} == {"passed"}
    assert len(document["hash"]) == 64


def test_a_plugin_that_does_not_conform_ends_with_its_exit_code_unless_waived(install: Install) -> None:
    source = "from synthfed.plugins.domains.table import TableDomain\nclass Mute(TableDomain):\n    __doc__ = None\n"
    install("mute_one", "[synthfed.domains]\nmute = mute_one:Mute\n", source)
    done = call("check", "mute")
    assert isinstance(done.exception, PluginError)
    assert EXIT_CODES[PluginError] == 9
    assert "plugin 'mute' (distribution mute_one): does not conform: domain-is-documented" in str(done.exception)
    assert "failed     domain-is-documented  (a table of numbers)" in done.output
    done = call("check", "mute", "--waive", "domain-is-documented=it speaks for itself")
    assert done.exit_code == 0
    assert "waived     domain-is-documented" in done.output
    assert "it speaks for itself" in done.output


def test_wrong_arguments_of_a_check_are_told() -> None:
    assert "must have the form CHECK=REASON" in refused(ConfigError, "check", "table", "--waive", "reading-repeats")
    assert "--option and --data are for models" in refused(ConfigError, "check", "table", "--option", "a=1")
    assert "no_such" in refused(ConfigError, "check", "tabular-gan", "--option", "no_such=1")


@pytest.mark.parametrize(
    "name", ["", "Gan", "9lives", "a_b", "a--b", "-a", "a" * 33, "sum", "options", "../up", "none"]
)
def test_a_name_that_is_no_name_is_refused(name: str, tmp_path: Path) -> None:
    assert repr(name) in refused(ConfigError, "new", "--into", str(tmp_path), "--", name)
    assert not list(tmp_path.iterdir())


def test_a_taken_name_or_folder_is_refused(tmp_path: Path) -> None:
    assert "is a plugin of synthfed already" in refused(ConfigError, "new", "table", "--into", str(tmp_path))
    (tmp_path / "synthfed-own").mkdir()
    assert "exists already" in refused(ConfigError, "new", "own", "--into", str(tmp_path))
    assert not list((tmp_path / "synthfed-own").iterdir())
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(ConfigError, "new", "own", "--into", str(tmp_path / "file"))


def test_the_tests_of_a_new_package_pass_out_of_the_box(tmp_path: Path) -> None:
    assert call("new", "two-words", "--into", str(tmp_path)).exit_code == 0
    folder = tmp_path / "synthfed-two-words"
    assert "class TwoWords:" in (folder / "src/synthfed_two_words/model.py").read_text()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "150 passed" in done.stdout
