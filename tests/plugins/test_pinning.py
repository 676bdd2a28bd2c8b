"""From a study to what is pinned: what cannot be is told with the study's file."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.protocols.federation import terms

from synthfed.plugins.pinning import naming, pin
from synthfed.protocols.errors import ConfigError, PluginError, StudyError
from synthfed.protocols.study import Study


def study(model: str = "tabular-gan", options: dict[str, Any] | None = None, domain: str = "table") -> Study:
    return Study.model_validate({**terms(), "domain": domain, "model": {"plugin": model, "options": options or {}}})


def refused(terms_: Study, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught, naming("study.toml"):
        pin(terms_)
    return str(caught.value)


def test_a_wrong_option_of_a_model_is_told_with_the_studys_file() -> None:
    assert (
        refused(study(options={"bins": 1}), StudyError) == "study.toml: model.options: bins: must be at least 2 (is 1)"
    )


def test_a_missing_plugin_is_told_with_the_studys_file() -> None:
    assert refused(study("nope"), PluginError).startswith("study.toml: plugin 'nope': is not installed; mend the name")
    assert refused(study(domain="images"), PluginError).startswith("study.toml: plugin 'images': is not installed")


def test_a_promise_that_cannot_be_met_is_told_with_the_studys_file() -> None:
    fields = terms(epsilon=1e-6)
    fields["model"] = {"plugin": "tabular-gan"}
    said = refused(Study.model_validate(fields), StudyError)
    assert said.startswith("study.toml: privacy.epsilon = 1e-06 with privacy.delta = ")


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(ConfigError, match=r"^--out: is taken$"), naming("study.toml"):
        raise ConfigError("is taken", where="--out")


def test_a_model_that_fails_on_a_study_is_an_error_of_the_plugin(make_model: Callable[[str], None]) -> None:
    methods = "    def private(self): ...\n    def trainer(self, seed): ...\n    def sums(self): ...\n"
    make_model(f"class Model:\n    def __init__(self, study):\n        raise KeyError('width')\n{methods}")
    said = refused(study("own"), PluginError)
    assert said.startswith("study.toml: plugin 'own' (distribution own_dist): cannot be used here (KeyError: 'width')")
    assert said.endswith("mend or reinstall own_dist 2.5")


def test_a_model_whose_sums_fail_is_an_error_of_the_plugin(make_model: Callable[[str], None]) -> None:
    methods = "    def __init__(self, study): ...\n    def private(self): ...\n    def trainer(self, seed): ...\n"
    make_model(f"class Model:\n{methods}    def sums(self):\n        return 1 / 0\n")
    said = refused(study("own"), PluginError)
    assert "(distribution own_dist): cannot declare its sums (ZeroDivisionError" in said


@pytest.fixture
def make_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that installs a distribution with a model plugin ``own`` of the given source."""

    def lay_out(source: str) -> None:
        info = tmp_path / "own_dist-2.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: own_dist\nVersion: 2.5\nRequires-Dist: synthfed>=0\n"
        )
        (info / "entry_points.txt").write_text("[synthfed.models]\nown = own_dist:Model\n")
        (tmp_path / "own_dist.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "own_dist", raising=False)

    return lay_out
