"""For each check that a private part keeps and shows nothing a model that breaks it alone."""

import functools
import logging
import os
import socket
import threading
import time
from typing import Any

import numpy as np
import torch

from .toy_model import ToyAtSite, ToyTrainer
from .wrong_models import at_site, model
from .wrong_private_parts import loss_by

KEPT: dict[str, Any] = {}
"""What a wrong model keeps in its code."""


def keep_in_self(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    self.last = batch[-1].copy()
    return ToyAtSite.statistic(self, name, batch, payload)


def keep_in_code(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    KEPT["last"] = batch[-1].copy()
    return ToyAtSite.statistic(self, name, batch, payload)


def connect(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    with socket.socket() as away:
        away.bind(("127.0.0.1", 0))
    return ToyAtSite.statistic(self, name, batch, payload)


def log(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    logging.getLogger("toy").warning("%s records", len(batch))
    return ToyAtSite.statistic(self, name, batch, payload)


def keep_the_first(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    if not hasattr(self, "first"):
        self.first = batch[0].copy()
    return ToyAtSite.statistic(self, name, batch, payload)


@functools.lru_cache(maxsize=1)
def remembered(content: bytes) -> int:
    return len(content)


def cache_records(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    remembered(batch.tobytes())
    return ToyAtSite.statistic(self, name, batch, payload)


def remember(row: np.ndarray, rows: list[float] = []) -> None:  # noqa: B006  (the fault to be found)
    rows[:] = [*rows[-3:], float(row @ np.arange(len(row)))]


def keep_in_a_default(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    remember(batch[-1])
    return ToyAtSite.statistic(self, name, batch, payload)


def keep_in_a_class(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    type(self).last = float(batch[-1] @ np.arange(batch.shape[1]))
    return ToyAtSite.statistic(self, name, batch, payload)


def keep_elsewhere(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    logging.seen = float(batch[0] @ np.arange(batch.shape[1]))  # type: ignore[attr-defined]
    return ToyAtSite.statistic(self, name, batch, payload)


def start_from_elsewhere(self: Any, model: Any, seed: int) -> None:
    ToyTrainer.__init__(self, model, seed)
    self.weights[0] += getattr(logging, "seen", 0.0)


def start_a_thread(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    thread = threading.Thread(target=batch.sum)
    thread.start()
    thread.join()
    return ToyAtSite.statistic(self, name, batch, payload)


def look_at_the_clock(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    return ToyAtSite.statistic(self, name, batch, payload) * (1.0 if time.time() > 0 else 0.5)


def look_at_the_environment(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    return ToyAtSite.statistic(self, name, batch, payload) * float(os.environ.get("SCALE_OF_COUNTS", "1"))


def count_one_by_one(self: Any, name: str, batch: np.ndarray, payload: Any) -> np.ndarray:
    for row in batch[batch[:, 0] > 0]:
        row.sum()
    return ToyAtSite.statistic(self, name, batch, payload)


def select(losses: torch.Tensor, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
    return losses + losses.detach()[batch[:, 0] > 0].sum() * 0.0


KEEPING: list[tuple[str, type]] = [
    ("private-part-keeps-nothing", at_site(statistic=keep_in_self)),
    ("first-records-leave-no-mark", at_site(statistic=keep_the_first)),
    ("code-keeps-nothing", at_site(statistic=keep_in_code)),
    ("code-keeps-nothing", at_site(statistic=cache_records)),
    ("code-keeps-nothing", at_site(statistic=keep_in_a_default)),
    ("code-keeps-nothing", at_site(statistic=keep_in_a_class)),
    (
        "records-reach-no-other-half",
        model(
            at_site=type("WrongAtSite", (ToyAtSite,), {"statistic": keep_elsewhere}),
            at_coordinator=type("WrongTrainer", (ToyTrainer,), {"__init__": start_from_elsewhere}),
        ),
    ),
    ("private-part-opens-nothing", at_site(statistic=connect)),
    ("private-part-looks-at-nothing-else", at_site(statistic=start_a_thread)),
    ("private-part-says-nothing", at_site(statistic=log)),
    ("private-part-looks-at-nothing-else", at_site(statistic=look_at_the_clock)),
    ("private-part-looks-at-nothing-else", at_site(statistic=look_at_the_environment)),
    ("work-is-the-same-for-all-records", at_site(statistic=count_one_by_one)),
    ("work-is-the-same-for-all-records", loss_by(select)),
]
