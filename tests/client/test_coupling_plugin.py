"""A site meets an installed plugin that lets records act on each other: neither check nor agent goes on with it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.client.homes import approve, copied

from synthfed.client.check import preflight
from synthfed.client.config import Home
from synthfed.client.site import open_agent
from synthfed.protocols.errors import UnsupportedMechanism

PLUGIN = """
from synthfed.plugins.models.adversarial.gan_family import GanAtSite
from synthfed.plugins.models.gan import Gan

class AtSite(GanAtSite):
    def {method}

class Together(Gan):
    def private(self):
        return AtSite(self)
"""
LOSS = """loss(self, name, module, batch, coins):
        losses = super().loss(name, module, batch, coins)
        return losses - 0.1 * losses.mean()"""
STATISTIC = """statistic(self, name, batch, payload):
        rows = super().statistic(name, batch, payload)
        return rows - 0.1 * rows.mean(0)"""
ENCODING = """encode(self, records):
        cells = super().encode(records)
        return cells / (1.0 + cells.mean(0))"""


@pytest.fixture
def home(made_home: Home, tmp_path: Path) -> Home:
    made = copied(made_home, tmp_path)
    text = made.path.joinpath("study.toml").read_text(encoding="utf-8")
    made.path.joinpath("study.toml").write_text(text.replace('"tabular-gan"', '"together"'), encoding="utf-8")
    return made


@pytest.mark.parametrize(
    ("module", "method", "named"),
    [
        ("meet_in_loss", LOSS, "'critic'"),
        ("meet_in_statistic", STATISTIC, "statistic 'marginals'"),
        ("meet_in_encoding", ENCODING, "the encoding"),
    ],
)
def test_a_plugin_in_which_records_meet_stops_check_and_agent_before_a_record_is_read(
    home: Home, install: Callable[..., Path], module: str, method: str, named: str
) -> None:
    install(module, f"[synthfed.models]\ntogether = {module}:Together\n", PLUGIN.replace("{method}", method))
    approve(home)
    (home.path / "data.csv").unlink()  # nobody asks for it
    with pytest.raises(UnsupportedMechanism, match=named), open_agent(home):
        pass
    found = [finding for finding in preflight(home) if finding.topic == "model"]
    assert [finding.is_ok for finding in found] == [False]
    assert named in found[0].detail
