"""What a study may set of every GAN, whatever its records are: declared once, used by the adversarial engine.

Never holds a default that depends on data: whatever is off costs nothing and changes nothing.
"""

from typing import Annotated, ClassVar, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Strict
from synthfed.protocols.study import Study, describe
from synthfed.protocols.sums import MAX_STEPS

Rate = Annotated[float, Field(gt=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, le=1000)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Records = Annotated[int, Field(ge=16, le=65_536)]


class GanOptions(Strict):
    """What a study may set of every GAN; the defaults are those of the published figures of tables.

    Attributes:
        critics_own: names of a subclass's options that act in the critic's steps alone, beside those of this class and
            those that begin with ``critic_``.
        refine: whether the critic's private steps refine the start. Without them the anchor's shares are
            scaled to all of the budget, no round is spent on a gradient, and all records come from the generator
            fitted to the anchor.
        batch: fakes of one public batch.
        critic_rate: the critic's learning rate.
        critic_momentum: Adam's decay of its mean gradient.
        generator_rate: the generator's learning rate against the critic.
        generator_steps: its steps in one turn.
        critic_ladder: critic's steps before each turn of the generator: the first of these at first, the
            next one whenever the critic loses sight of the fakes (Bie, Kamath and Zhang 2023, arXiv:2302.02936).
        ladder_accuracy: the part of fakes that the critic must tell, in a running mean, to stay on a rung.
        ladder_decay: of that running mean, per turn of the generator.
        ladder_grace: turns on a rung before the next one may be taken.
        averaging: decay of the running mean of the generator's weights, per step of the generator.
        pretraining: public steps of both networks on the anchor's samples before the first private one.
        spectral: largest spectral norm of each of the critic's weights; 0 for no limit.
        critic_dropout: part of the critic's hidden units dropped; at the sites by secret coins of the core.
        generator_dropout: part of the generator's hidden units dropped in training; public.
        mixup: largest part of a public fake that a site mixes into a record, its label with it; 0 for none.
        mixup_partners: how many fakes go to the sites for that in each step.
        features_share: share of the budget for the mean of the critic's features of real records; 0 for none.
        features_every: critic's steps from one such mean to the next.
        features_weight: of the misfit to it in the generator's loss, a mean square in units of the noise.
        comparison_share: share of the budget for the comparison that decides whether the refinement is kept; 0 for
            none: then it is kept unseen.
        comparison_steps: public steps of the comparison's discriminator.
        diversity: weight of the shortfall of the fakes' diversity against the anchor's samples.
        local_steps: the critic's steps that each site takes in one round, so that the study's steps need so many
            times fewer rounds; more than 1 needs ``privacy.mode = "local"``.
        local_fakes: how many fakes go to the sites for that in each round.
    """

    critics_own: ClassVar[frozenset[str]] = frozenset()

    refine: bool = True
    batch: Records = 1024
    critic_rate: Rate = 2e-3
    critic_momentum: Part = 0.5
    generator_rate: Rate = 5e-4
    generator_steps: Annotated[int, Field(ge=1, le=64)] = 2
    critic_ladder: Annotated[tuple[Count, ...], Field(min_length=1, max_length=16, strict=False)] = (1,)
    ladder_accuracy: Part = 0.6
    ladder_decay: Part = 0.9
    ladder_grace: Count = 10
    averaging: Part = 0.98
    pretraining: Annotated[int, Field(ge=0, le=100_000)] = 0
    spectral: Annotated[float, Field(ge=0, le=100)] = 0.0
    critic_dropout: Part = 0.0
    generator_dropout: Part = 0.0
    mixup: Part = 0.0
    mixup_partners: Annotated[int, Field(ge=1, le=4096)] = 64
    features_share: Part = 0.0
    features_every: Count = 10
    features_weight: Weight = 0.1
    comparison_share: Part = 0.02
    comparison_steps: Count = 400
    diversity: Weight = 0.0
    local_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 1
    local_fakes: Records = 64

    @field_validator("critic_ladder")
    @classmethod
    def _ladder_rises(cls, ladder: tuple[int, ...]) -> tuple[int, ...]:
        if list(ladder) != sorted(set(ladder)):
            raise ValueError("must rise from rung to rung, as in [1, 2, 5, 10]")
        return ladder

    @model_validator(mode="after")
    def _nothing_is_idle(self) -> Self:
        known = (GanOptions.model_fields.keys() - {"refine"}) | self.critics_own
        idle = sorted(name for name in self.model_fields_set if name in known or name.startswith("critic_"))
        if idle and not self.refine:
            raise ValueError(f"{idle[0]} does nothing without the critic; set refine = true, or leave it out")
        if "local_fakes" in self.model_fields_set and self.local_steps == 1:
            raise ValueError("local_fakes does nothing with one step in a round; set local_steps, or leave it out")
        return self


O = TypeVar("O", bound=BaseModel)  # noqa: E741


def read_options(kind: type[O], study: Study) -> O:
    """Return a study's model options as their model; ConfigError, naming the option, where one is wrong."""
    try:
        return kind.model_validate(study.model.options)
    except ValidationError as error:
        raise ConfigError(describe(error), where="model.options") from None
