"""``wgan``: the Wasserstein GAN, for tables (Arjovsky, Chintala and Bottou 2017, arXiv:1701.07875).

Never takes a gradient at a real record's place: the penalty that keeps the critic Lipschitz is taken
between generated points, so it is public.

Shapes: a record is one-hot, ``(width,)``; the critic is an MLP from it to one score of any size; the
generator gives every latent the logits of all cells, as in ``gan``.

Private part: the anchor's statistics, and the gradient of -score of each real record.
Public part: +score of fakes and the penalty for the critic, -score of fakes for the generator, with
the misfits to the anchor. ``lipschitz = "clip"`` clips the critic's weights after each step, as in
the paper; ``"penalty"`` adds the squared distance of the score's slope from 1 (Gulrajani et al. 2017,
arXiv:1704.00028), on lines from fake to fake where theirs go from fake to record: a line to a record
would make the penalty private, and per record it needs second derivatives that the core does not form.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, Field

from synthfed.protocols.study import Study

from .adversarial.critics import Critic, limit_weights
from .adversarial.gan_options import Weight, read_options
from .adversarial.losses import WASSERSTEIN
from .adversarial.table_gan import TableGan, TableGanOptions


class WganOptions(TableGanOptions):
    """What a study may set besides what every GAN for tables has.

    Attributes:
        lipschitz: how the critic's slope is bounded: weight clipping, or a penalty on generated points.
        weight_limit: largest size of a weight under ``clip``.
        penalty_weight: of the penalty in the critic's loss.
    """

    critics_own: ClassVar[frozenset[str]] = TableGanOptions.critics_own | {
        "lipschitz",
        "weight_limit",
        "penalty_weight",
    }

    lipschitz: Literal["clip", "penalty"] = "penalty"
    weight_limit: Annotated[float, Field(gt=0, le=10)] = 0.1
    penalty_weight: Weight = 1.0


class Wgan(TableGan):
    """The model plugin ``wgan``."""

    Options: type[BaseModel] = WganOptions
    losses = WASSERSTEIN
    options: WganOptions

    def __init__(self, study: Study) -> None:
        """Read the study's schema, privacy constants and model options, and nothing else.

        Raises:
            ConfigError: an option is unknown or out of range, or a column is an array.
        """
        super().__init__(study, read_options(WganOptions, study))

    def penalty(self, critic: Critic, fakes: torch.Tensor, rng: torch.Generator) -> torch.Tensor | None:
        """Return the mean squared distance of the slope from 1, at points between fakes; None under ``clip``."""
        if self.options.lipschitz == "clip":
            return None
        others = fakes[torch.randperm(len(fakes), generator=rng)]
        points = torch.lerp(fakes, others, torch.rand(len(fakes), 1, generator=rng)).requires_grad_()
        (slopes,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
        penalty: torch.Tensor = (slopes.norm(dim=1) - 1).square().mean()
        return self.options.penalty_weight * penalty

    def project(self, critic: Critic) -> None:
        """Clip the weights, where they are what bounds the slope."""
        if self.options.lipschitz == "clip":
            limit_weights(critic, self.options.weight_limit)

    def boundary(self, critic: Critic, samples: torch.Tensor) -> float:
        """Return the mean score of the anchor's samples: a Wasserstein critic's scores have no zero of their own."""
        return float(critic(samples).mean())
