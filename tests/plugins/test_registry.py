"""The plugin registry, on distributions that the tests lay out as pip would install them."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from synthfed.plugins.distributions import broken, core_version, fitting_range, points
from synthfed.plugins.registry import Group, find, installed
from synthfed.protocols.errors import ConfigError, PluginError

Install = Callable[..., Path]


def test_a_plugin_is_listed_without_being_imported(install: Install) -> None:
    install("quiet_dist", "[synthfed.models]\nquiet = quiet_dist:Quiet\n", "raise RuntimeError('imported')\n")
    plugin = find("synthfed.models", "quiet")
    assert plugin in installed("synthfed.models")
    assert (plugin.name, plugin.distribution, plugin.version) == ("quiet", "quiet_dist", "2.5")
    assert "quiet_dist" not in sys.modules


def test_a_plugin_is_listed_in_its_own_group_only(install: Install) -> None:
    install("lone_dist", "[synthfed.audits]\nlone = lone_dist:Lone\n", "")
    assert "lone" not in {plugin.name for plugin in installed("synthfed.models")}
    assert "lone" in {plugin.name for plugin in installed("synthfed.audits")}


def of_kind(name: str) -> str:
    """Return the source of a class with the methods of the models' contract."""
    return f"class {name}:\n    def sums(self): ...\n    def private(self): ...\n    def trainer(self, seed): ...\n"


def test_loading_returns_the_class(install: Install) -> None:
    install("loaded_dist", "[synthfed.models]\nloaded = loaded_dist:Loaded\n", of_kind("Loaded"))
    assert find("synthfed.models", "loaded").load().__name__ == "Loaded"


def test_a_plugin_makes_an_instance_and_lets_our_own_errors_pass(install: Install) -> None:
    source = (
        "from synthfed.protocols.errors import ConfigError\n"
        f"{of_kind('Made')}    def __init__(self, size):\n"
        "        if size > 3:\n            raise ConfigError('is too large', where='size')\n"
        "        self.size = 10 / size\n"
    )
    install("made_dist", "[synthfed.models]\nmade-here = made_dist:Made\n", source)
    plugin = find("synthfed.models", "made-here")
    assert plugin.make(2).size == 5
    with pytest.raises(ConfigError, match=r"^size: is too large"):
        plugin.make(4)
    with pytest.raises(
        PluginError, match=r"made_dist.*cannot be used here .ZeroDivisionError.*reinstall made_dist 2\.5"
    ):
        plugin.make(0)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("absent_attribute", ""),
        ("failing_import", "import no_such_package_at_all\n"),
        ("raising_import", "raise RuntimeError('a bug')\n"),
        ("wrong_syntax", "class\n"),
        ("exiting_import", "raise SystemExit(0)\n"),
        ("no_class", "Model = 1\n"),
    ],
)
def test_a_broken_plugin_is_named_with_its_distribution_and_version(install: Install, name: str, source: str) -> None:
    install(name, f"[synthfed.models]\nbroken = {name}:Model\n", source)
    with pytest.raises(PluginError, match=rf"'broken' \(distribution {name}\).*reinstall {name} 2.5"):
        find("synthfed.models", "broken").load()


@pytest.mark.parametrize(
    ("group", "lacking"),
    [
        ("synthfed.models", "private, trainer"),
        ("synthfed.domains", "check, read, write, picture, draft"),
        ("synthfed.audits", "unfit, run"),
    ],
)
def test_a_class_that_lacks_methods_of_its_contract_is_named_with_them(
    install: Install, group: Group, lacking: str
) -> None:
    install("bald_dist", f"[{group}]\nbald = bald_dist:Bald\n", "class Bald:\n    def sums(self): ...\n")
    with pytest.raises(PluginError, match=rf"'bald' .distribution bald_dist.: lacks .*{group} asks for: {lacking};"):
        find(group, "bald").load()
    sys.modules.pop("bald_dist")


@pytest.mark.parametrize("target", ["no class!!", "one:two:three"])
def test_a_target_that_names_no_class_is_told(install: Install, target: str) -> None:
    install("aimless_dist", f"[synthfed.models]\naimless = {target}\n", "")
    with pytest.raises(PluginError, match=r"points at '.*', which is not of the form package.module:Class; mend or"):
        find("synthfed.models", "aimless").load()


def test_a_plugin_that_exits_when_made_or_found_ends_nothing(install: Install, tmp_path: Path) -> None:
    source = f"{of_kind('Leaves')}    def __init__(self, status):\n        raise SystemExit(status)\n"
    install("leaving_dist", "[synthfed.models]\nleaves = leaving_dist:Leaves\nhides = hiding.place:X\n", source)
    (tmp_path / "leaving_dist" / "hiding").mkdir()
    (tmp_path / "leaving_dist" / "hiding" / "__init__.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(PluginError, match=r"cannot be used here .SystemExit: 0"):
        find("synthfed.models", "leaves").make(0)
    with pytest.raises(PluginError, match=r"cannot be located .SystemExit: 0"):
        find("synthfed.models", "hides").hash  # noqa: B018
    sys.modules.pop("leaving_dist")


def test_a_missing_plugin_is_named_with_those_that_are_there(install: Install) -> None:
    install("there_dist", "[synthfed.domains]\nthere = there_dist:There\n", "")
    with pytest.raises(PluginError, match=r"'nowhere'.*not installed.*there"):
        find("synthfed.domains", "nowhere")


def test_a_plugin_declared_twice_names_both_distributions(install: Install) -> None:
    install("first_dist", "[synthfed.models]\ntwin = first_dist:Twin\n", "")
    install("second_dist", "[synthfed.models]\ntwin = second_dist:Twin\n", "")
    with pytest.raises(PluginError, match=r"first_dist 2.5, second_dist 2.5.*more than once"):
        find("synthfed.models", "twin")


def test_the_hash_is_of_the_source_and_does_not_run_it(install: Install) -> None:
    module = install("hashed_dist", "[synthfed.models]\nhashed = hashed_dist:Hashed\n", "raise RuntimeError\n")
    plugin = find("synthfed.models", "hashed")
    before = plugin.hash
    assert len(before) == 32
    assert plugin.hash == before
    module.write_text("raise RuntimeError  # changed\n")
    assert plugin.hash != before
    assert "hashed_dist" not in sys.modules


def test_the_hash_is_of_distribution_and_version_too(install: Install) -> None:
    install("own_dist", "[synthfed.models]\nowned = own_dist:Owned\n", "")
    plugin = find("synthfed.models", "owned")
    others = (replace(plugin, distribution="other_dist"), replace(plugin, version="2.6"))
    assert len({plugin.hash, *(other.hash for other in others)}) == 3


def test_two_plugins_of_one_file_have_two_hashes(install: Install) -> None:
    install("pair_dist", "[synthfed.models]\none = pair_dist:One\ntwo = pair_dist:Two\n", "")
    assert find("synthfed.models", "one").hash != find("synthfed.models", "two").hash


@pytest.mark.parametrize("target", ["no_module_of_this_name:X", "no_package_of_this_name.inner:X"])
def test_a_plugin_without_a_file_has_no_hash(install: Install, target: str) -> None:
    install("gone_dist", f"[synthfed.models]\ngone = {target}\n", "")
    with pytest.raises(PluginError, match=r"'gone' \(distribution gone_dist\): cannot be located"):
        find("synthfed.models", "gone").hash  # noqa: B018


VERSION = core_version()
FITTING = f"synthfed{fitting_range()}"


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ("numpy>=1", "does not say which versions of synthfed it was made for"),
        ("synthfed", "does not say which versions of synthfed it was made for"),
        ("synthfed>=1 ; extra == 'more'", "does not say which versions of synthfed it was made for"),
        ("not a requirement at all !", "does not say which versions of synthfed it was made for"),
        ("synthfed>=99", rf"was made for synthfed >=99, and {VERSION} is installed; install another version of"),
        (f"synthfed!={VERSION}", f"was made for synthfed !={VERSION}"),
    ],
)
def test_a_plugin_for_another_synthfed_is_named_and_not_loaded(install: Install, requirement: str, words: str) -> None:
    install("unfit_dist", "[synthfed.models]\nunfit = unfit_dist:Unfit\n", "raise RuntimeError\n", requirement)
    plugin = find("synthfed.models", "unfit")
    with pytest.raises(PluginError, match=rf"'unfit' .distribution unfit_dist.: {words}"):
        plugin.load()
    assert "unfit_dist" not in sys.modules


@pytest.mark.parametrize("requirement", [FITTING, f"Synthfed=={VERSION}", f"synthfed>={VERSION} ; python_version>'3'"])
def test_a_plugin_for_this_synthfed_is_loaded(install: Install, requirement: str) -> None:
    install("fit_dist", "[synthfed.models]\nfit = fit_dist:Fit\n", of_kind("Fit"), requirement)
    assert find("synthfed.models", "fit").load().__name__ == "Fit"
    sys.modules.pop("fit_dist")


def test_our_own_plugins_fit_without_saying_so() -> None:
    assert not find("synthfed.models", "tabular-gan").unfit


def test_broken_entry_points_hide_no_other_distribution(install: Install) -> None:
    install("ruined_dist", "[synthfed.models]\nthis is no entry point\n", "")
    install("sound_dist", "[synthfed.models]\nsound = sound_dist:Sound\n", "")
    assert {"sound", "tabular-gan"} <= {plugin.name for plugin in installed("synthfed.models")}
    assert "ruined_dist" in broken()
    assert "server" in {point.name for point in points("synthfed.commands")}


def test_a_distribution_without_metadata_is_listed_and_not_loaded(install: Install, tmp_path: Path) -> None:
    install("bare_dist", "[synthfed.models]\nbare = bare_dist:Bare\n", "class Bare:\n    pass\n")
    (tmp_path / "bare_dist/bare_dist-2.5.dist-info/METADATA").unlink()
    plugin = find("synthfed.models", "bare")
    assert (plugin.distribution, plugin.version) == ("unknown", "unknown")
    with pytest.raises(PluginError, match="metadata is broken"):
        plugin.load()


def test_of_two_distributions_of_one_name_the_first_on_the_path_counts(install: Install, tmp_path: Path) -> None:
    install("shadow_dist", "[synthfed.models]\nshadow = shadow_dist:First\n", "")
    second = tmp_path / "later" / "shadow_dist-1.0.dist-info"
    second.mkdir(parents=True)
    (second / "METADATA").write_text("Metadata-Version: 2.1\nName: shadow_dist\nVersion: 1.0\n")
    (second / "entry_points.txt").write_text("[synthfed.models]\nshadow = shadow_dist:Second\n")
    sys.path.append(str(second.parent))
    try:
        assert find("synthfed.models", "shadow").target == "shadow_dist:First"
    finally:
        sys.path.remove(str(second.parent))
