"""One thread for each process, and the long tests first, so that two workers end together."""

import os

import pytest
from hypothesis import settings

# No test is a timed one: on a busy machine any example may take long.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Before anything imports torch: threads of one process would only wait for the cores of the others.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow tests first: one worker begins with them, and the other takes over what is left behind them."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
