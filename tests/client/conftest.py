"""A roster of three sites, a tiny model plugin and the policies pinned for it."""

import base64
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import nn

from synthfed.client.config import Home
from synthfed.plugins.api import Array, Payload, PrivatePart, Records
from synthfed.protocols.privacy.plan import make_plan
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that tests can import `tests.client.federation`
from tests.client.federation import Federation, Identities, Join, join_at
from tests.client.homes import make_home

SITES = ("a", "b", "c")
SUMS = (
    Sum("count", "statistic", 2, 2.0, 1.0, 4, 1.0),
    Sum("critic", "gradient", 10, 1.0, 0.5, 6, 1.0, (("w", (3, 1)), ("b", (3,)), ("v", (1, 3)), ("c", (1,)))),
)


class Tiny:
    """One statistic, (1, x) per record, and one gradient sum of a two-layer critic."""

    def encode(self, records: Records) -> Array:
        return records

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:  # noqa: ARG002
        return np.stack([np.ones(len(batch)), batch[:, 0]], axis=1)

    def module(self, name: str) -> nn.Module:  # noqa: ARG002
        return nn.Sequential(nn.Linear(1, 3), nn.LeakyReLU(), nn.Linear(3, 1))

    def loss(self, name: str, module: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        losses: torch.Tensor = module(batch).square().sum(1)
        return losses


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As in the agent: one thread's sums have one order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home of site a in which everything is well but that no coordinator answers; tests copy it."""
    return make_home(tmp_path_factory.mktemp("made"), "127.0.0.1:9092", "no certificate")


@pytest.fixture(scope="session")
def tiny() -> PrivatePart:
    return Tiny()


@pytest.fixture(scope="session")
def identities() -> dict[str, Ed25519PrivateKey]:
    return {site: Ed25519PrivateKey.from_private_bytes(bytes([i + 1]) * 32) for i, site in enumerate(SITES)}


@pytest.fixture(scope="session")
def study(identities: dict[str, Ed25519PrivateKey]) -> Study:
    return terms(identities, "first", 5.0)


@pytest.fixture(scope="session")
def policy(study: Study) -> Policy:
    return Policy(study, make_plan(study, SUMS), b"code")


@pytest.fixture(scope="session")
def other_policy(identities: dict[str, Ed25519PrivateKey]) -> Policy:
    """A later study of the same sites and sums, with more noise."""
    study = terms(identities, "second", 2.0)
    return Policy(study, make_plan(study, SUMS), b"code")


@pytest.fixture
def join(tmp_path: Path, policy: Policy, identities: Identities, tiny: PrivatePart) -> Iterator[Join]:
    """Return a function that starts three agents over the ledgers of this test, anew at every call."""
    with ExitStack() as stack:
        yield join_at(stack, tmp_path, policy, identities, tiny)


@pytest.fixture
def federation(join: Join) -> Federation:
    return join()


def terms(identities: dict[str, Ed25519PrivateKey], name: str, epsilon: float) -> Study:
    keys = {site: base64.b64encode(key.public_key().public_bytes_raw()).decode() for site, key in identities.items()}
    return Study.model_validate(
        {
            "format": 1,
            "name": name,
            "target": "x",
            "privacy": {
                "mode": "distributed",
                "epsilon": epsilon,
                "delta": 1e-5,
                "units_per_site": 40,
                "sample_rate": 0.5,
                "steps": 6,
                "answer_time_s": 0.25,
                "statistic_time_s": 3.0,
            },
            "model": {"plugin": "tiny"},
            "cohort": {"tolerated": 1, "quorum": 3, "sites": [{"id": s, "key": key} for s, key in keys.items()]},
            "columns": [{"name": "x", "kind": "real", "lower": 0, "upper": 1}],
        }
    )
