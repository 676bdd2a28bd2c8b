"""Small studies of the GANs for tables: one list of families, one set of options that trains in a second."""

from collections.abc import Callable
from typing import Any

from tests.plugins.core import COLUMNS, Core, made_up, study

from synthfed.plugins.models.adversarial.engine import Adversarial
from synthfed.plugins.models.adversarial.table_gan import TableGan
from synthfed.plugins.models.cgan import Cgan
from synthfed.plugins.models.gan import Gan
from synthfed.plugins.models.infogan import Infogan
from synthfed.plugins.models.tables.table_fitting import TableFitting
from synthfed.plugins.models.wgan import Wgan
from synthfed.protocols.study import Study

FAMILIES: dict[str, Callable[[Study], TableGan]] = {"gan": Gan, "wgan": Wgan, "cgan": Cgan, "infogan": Infogan}
SMALL: dict[str, Any] = {
    "refine": True,
    "bins": 8,
    "fit_steps": 30,
    "fakes": 64,
    "batch": 64,
    "latent": 8,
    "generator_hidden": 16,
    "critic_hidden": 8,
    "comparison_share": 0.0,  # what is tested is the refined generator, unless a test says otherwise
}


def make(family: str, columns: list[dict[str, Any]] = COLUMNS, **options: Any) -> TableGan:
    """Return a model of a family on the made-up columns."""
    return FAMILIES[family](study(columns, SMALL | options, plugin=family))


def trained(
    family: str, rounds: int = 1000, noise: float = 0.1, **options: Any
) -> tuple[TableGan, Adversarial[TableFitting], Core]:
    """Return a model, a trainer after so many rounds, and the core that answered it."""
    model = make(family, **options)
    trainer, core = model.trainer(seed=3), Core(model, made_up(), noise=noise)
    core.run(trainer, rounds)
    return model, trainer, core


def resumed(family: str, done: int, **options: Any) -> tuple[Adversarial[TableFitting], Adversarial[TableFitting]]:
    """Return a trainer that ran to the end, and one that went on from its state after so many rounds."""
    model, first, core = trained(family, rounds=done, **options)
    second, copy = model.trainer(seed=99), Core(model, made_up())
    second.load(first.state())
    copy.follow(core)
    core.run(first)
    copy.run(second)
    return first, second
