"""The plugin registry, on distributions that the tests lay out as pip would install them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import cache_from_source
from pathlib import Path
from py_compile import PycInvalidationMode
from py_compile import compile as compile_file

import pytest

from synthfed import plugins
from synthfed.plugins.distributions import broken, core_version, fitting_range, points
from synthfed.plugins.registry import Group, _sources, find, installed
from synthfed.protocols.errors import ConfigError, PluginError
from synthfed.server.simulate import _site

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


@pytest.fixture
def packaged(install: Install) -> Iterator[Path]:
    """Yield the folder of an installed package whose plugin ``deep`` is two packages below."""
    points = "[synthfed.models]\ndeep = deep_dist.models.inner.net:Net\n"
    package = install("deep_dist", points, "").with_suffix("")
    (package / "models" / "inner").mkdir(parents=True)
    for folder in (package, package / "models", package / "models" / "inner"):
        (folder / "__init__.py").write_text("")
    (package / "clipping.py").write_text("LIMIT = 1\n")
    (package / "models" / "inner" / "net.py").write_text("class Net:\n    pass\n")
    package.with_suffix(".py").unlink()
    yield package
    for name in [name for name in sys.modules if name.partition(".")[0] == "deep_dist"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "name",
    [
        "clipping.py",
        "beside.py",
        "models/beside.py",
        "models/arrays/further.py",
        "models/inner/weights.npz",
        f"models/inner/net{EXTENSION_SUFFIXES[0]}",
        "models/inner/sourceless.pyc",
    ],
)
def test_the_hash_covers_every_file_of_the_outermost_package(packaged: Path, name: str) -> None:
    plugin = find("synthfed.models", "deep")
    before = plugin.hash
    (packaged / name).parent.mkdir(exist_ok=True)
    (packaged / name).write_bytes(b"LIMIT = 2\n")
    assert plugin.hash != before


def test_the_hash_covers_byte_code_that_runs_without_a_look_at_its_source_and_no_other(packaged: Path) -> None:
    plugin, source = find("synthfed.models", "deep"), packaged / "models" / "inner" / "net.py"
    before, other = plugin.hash, packaged.parent / "other.py"
    for mode in (PycInvalidationMode.TIMESTAMP, PycInvalidationMode.CHECKED_HASH):
        compile_file(str(source), invalidation_mode=mode, doraise=True)
        assert plugin.hash == before
    other.write_text(f"{of_kind('Net')}    is_another = True\n")
    compile_file(str(other), cfile=cache_from_source(str(source)), invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    assert plugin.hash != before
    assert plugin.load().is_another


def test_a_package_with_a_link_to_a_folder_has_no_hash(packaged: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (packaged / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PluginError, match="'linked' is a link to a folder"):
        find("synthfed.models", "deep").hash  # noqa: B018


def test_the_hash_of_a_plugin_in_a_namespace_is_of_its_part_alone(install: Install) -> None:
    package = install("part_dist", "[synthfed.models]\npart = shared_space.part.net:Net\n", "").parent / "shared_space"
    for folder in (package / "part", package / "strange"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    (package / "part" / "net.py").write_text("class Net:\n    pass\n")
    plugin = find("synthfed.models", "part")
    before = plugin.hash
    (package / "strange" / "module.py").write_text("LIMIT = 2\n")
    assert plugin.hash == before
    (package / "part" / "module.py").write_text("LIMIT = 2\n")
    assert plugin.hash != before


def test_the_hash_of_a_model_that_comes_with_synthfed_covers_the_encoders_and_engines_it_uses() -> None:
    package = Path(plugins.__file__).parent
    hashed = _sources("synthfed.plugins.models.vae", package / "models" / "vae.py")[::2]
    used = ("domains/encoding.py", "models/likelihoods/scaled.py", "models/arrays/moment_sums.py", "models/vae.py")
    assert {name.encode() for name in used} <= set(hashed)
    assert not any(name.startswith(b"..") or b"__pycache__" in name for name in hashed)


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


def test_no_other_distribution_stands_in_for_a_command_of_synthfed(install: Install) -> None:
    install("usurping_dist", "[synthfed.commands]\nclient = usurping_dist:app\nown = usurping_dist:app\n", "")
    named = [point.distribution for point in points("synthfed.commands") if point.name == "client"]
    assert named == ["usurping_dist", "synthfed"]
    program = [sys.executable, "-P", "-m", "synthfed.plugins.cli"]
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run([*program, "client", "--help"], env=place, capture_output=True, text=True, check=True)
    assert "enrolment" in shown.stdout or "init" in shown.stdout
    listed = subprocess.run([*program, "--help"], env=place, capture_output=True, text=True, check=True)
    assert "own" in listed.stdout


def test_no_other_distribution_stands_in_for_a_simulated_site(install: Install, tmp_path: Path) -> None:
    install("standing_in", "[synthfed.sites]\nmemory = standing_in:Site\n", "raise RuntimeError('imported')\n")
    (tmp_path / "homes").mkdir()
    made = _site(tmp_path / "homes" / "a", "a", tmp_path / "none.csv")
    made.close()
    assert type(made).__module__ == "synthfed.client.site"
