"""A trainer that fails or breaks its declaration: its plugin is named, and the checkpoint stands."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from tests.federation.conftest import WIDTH, Federation, ToyTrainer

from synthfed.plugins.api import Answer, Ask, Model
from synthfed.plugins.registry import Plugin
from synthfed.protocols.errors import ConfigError, PluginError
from synthfed.server.guarded import GuardedTrainer

Federate = Callable[..., Federation]
OWN = Plugin("own", "synthfed.models", "own_dist", "2.5", "own:Own")
ONE = np.ones(1, dtype=np.float32)


class Failing:
    """Raises one error in whatever it is asked."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def _fail(self, *_: Any) -> Any:
        raise self.error

    ask = overlap = receive = sample = walk = state = load = progress = _fail


class Made:
    """A model whose trainer is given."""

    def __init__(self, trainer: Failing | None) -> None:
        self.made = trainer

    def trainer(self, seed: int) -> Failing:
        if self.made is None:
            raise KeyError(seed)
        return self.made


def guarded(trainer: Failing | None) -> GuardedTrainer:
    model: Model = Made(trainer)  # type: ignore[assignment]  # of a model only this half is asked
    return GuardedTrainer(OWN, model, 7)


CALLS: dict[str, Callable[[GuardedTrainer], object]] = {
    "ask": lambda trainer: trainer.ask({}),
    "overlap": lambda trainer: trainer.overlap(),
    "receive": lambda trainer: trainer.receive(Answer("mean", np.zeros(1), 1.0, 3)),
    "sample": lambda trainer: trainer.sample(1, 2, {}),
    "walk": lambda trainer: trainer.walk(1, 2, 3),
    "state": lambda trainer: trainer.state(),
    "load": lambda trainer: trainer.load({}),
    "progress": lambda trainer: trainer.progress(),
}


@pytest.mark.parametrize("error", [KeyError("width"), SystemExit(0)], ids=repr)
@pytest.mark.parametrize("call", CALLS)
def test_whatever_a_trainer_raises_names_its_plugin(call: str, error: BaseException) -> None:
    words = rf"^plugin 'own' .distribution own_dist.: .* .{type(error).__name__}: .*; mend or reinstall own_dist 2\.5$"
    with pytest.raises(PluginError, match=words):
        CALLS[call](guarded(Failing(error)))


def test_a_trainer_that_cannot_be_made_names_its_plugin() -> None:
    with pytest.raises(PluginError, match=r"own_dist.: cannot make its trainer .KeyError: 7"):
        guarded(None)


@pytest.mark.parametrize("call", CALLS)
def test_an_error_of_ours_passes_as_it_is(call: str) -> None:
    with pytest.raises(ConfigError, match=r"^state: lacks an array$"):
        CALLS[call](guarded(Failing(ConfigError("lacks an array", where="state"))))


class Asks(ToyTrainer):
    """Asks for one thing, whatever is left."""

    def __init__(self, ask: Ask) -> None:
        super().__init__(WIDTH)
        self.wish = ask

    def ask(self, remaining: Mapping[str, int]) -> Ask:  # noqa: ARG002
        return self.wish


@pytest.mark.parametrize(
    ("ask", "words", "charged"),
    [
        (Ask("mean", {"scale": ONE}), "its trainer asked for more rounds of 'mean' than it declared", {"mean": 2}),
        (Ask("median", {}), "its trainer asked for 'median', which it did not declare", {}),
        (Ask("mean", {}), "its trainer asked for 'mean' without 'scale' of the declared shape", {}),
        (Ask("mean", {"scale": np.ones(2, dtype=np.float32)}), "without 'scale' of the declared shape", {}),
    ],
)
def test_a_trainer_that_leaves_its_declaration_is_stopped_before_a_site_is_asked(
    federate: Federate, ask: Ask, words: str, charged: dict[str, int]
) -> None:
    federation = federate(rounds=2)
    with pytest.raises(PluginError, match=f"{words}.*; mend the plugin"):
        federation.train(trainer=Asks(ask))
    assert all(federation.charges(site) == charged for site in federation.sites)
    assert federation.checkpoint()[1].attempts == charged
