"""Lets tests import `tests.privacy.marked`, and has torch use one thread, as in the agent."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As in the agent: one thread's sums have one order."""
    torch.set_num_threads(1)
