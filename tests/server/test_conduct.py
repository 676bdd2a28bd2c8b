"""Before a run starts: what could only fail later is refused, and nothing is left behind."""

import socket
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.client.enrol import node_public
from synthfed.plugins.processes import free_port
from synthfed.protocols.enrolment import Enrolment
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Categorical
from synthfed.protocols.study import ModelTerms, Privacy
from synthfed.server.conduct import Request, conduct
from synthfed.server.drafting import make_study
from synthfed.server.home import ServerHome, enrol, init_home
from synthfed.server.study_file import render_study


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    place = ServerHome(tmp_path / "home")
    init_home(place, "localhost", "127.0.0.1", free_port(), free_port())
    return place


@pytest.fixture
def request_(tmp_path: Path, home: ServerHome) -> Request:
    """A request for a study whose sites are enrolled."""
    sites = []
    for site in ("a", "b"):
        node = node_public(ec.generate_private_key(ec.SECP384R1()))
        enrolment = Enrolment.signed(site, "", Ed25519PrivateKey.generate(), node)
        (tmp_path / f"{site}.json").write_text(enrolment.model_dump_json())
        sites.append(enrol(home, tmp_path / f"{site}.json").roster_entry)
    study = make_study(
        name="drafted",
        target="ill",
        domain="table",
        privacy=Privacy(mode="local", epsilon=2.0, delta=1e-6, units_per_site=100, sample_rate=0.5, steps=3),
        model=ModelTerms(plugin="tabular-gan"),
        cohort={"sites": sites, "tolerated": 1, "quorum": 2},
        columns=[Categorical(name="ill", values=("no", "yes"))],
    )
    (tmp_path / "study.toml").write_text(render_study(study))
    return Request(tmp_path / "study.toml", tmp_path / "out", 10, 0, 1.0, "session", resume=False)


def refused(home: ServerHome, request_: Request) -> str:
    with pytest.raises(ConfigError) as caught:
        conduct(home, request_, lambda _: None)
    assert not list(home.logs.iterdir()), "Flower was started"
    assert not list((home.path / "runs").iterdir())
    assert not request_.out.exists()
    return str(caught.value)


@pytest.mark.parametrize("field", ["port", "steps_port"])
def test_a_port_in_use_is_refused_by_file_and_field_before_flower_starts(
    home: ServerHome, request_: Request, field: str
) -> None:
    port = getattr(home.load(), field)
    with socket.create_server(("127.0.0.1", port)):
        said = refused(home, request_)
    assert said.startswith(f"{home.config}: {field}: cannot listen on 127.0.0.1:{port}: Address already in use; ")
    assert said.endswith(f"choose another `{field}`")


def test_an_address_that_is_not_of_this_machine_is_refused_as_bind(home: ServerHome, request_: Request) -> None:
    text = home.config.read_text()
    home.config.write_text(text.replace('bind = "127.0.0.1"', 'bind = "192.0.2.1"'))
    said = refused(home, request_)
    assert said.startswith(f"{home.config}: bind: cannot listen on 192.0.2.1:")
    assert said.endswith("give an address of this machine, or 0.0.0.0 for all")


def test_a_study_that_cannot_be_read_is_refused_with_the_reason(home: ServerHome, request_: Request) -> None:
    request_.study.unlink()
    assert refused(home, request_).endswith("study.toml: cannot be read: No such file or directory")


def test_a_site_that_is_not_enrolled_is_refused(home: ServerHome, request_: Request) -> None:
    (home.path / "sites" / "b.json").unlink()
    assert "site 'b' is not enrolled; run `synthfed server enroll FILE`" in refused(home, request_)
