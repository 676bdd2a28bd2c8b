"""``infogan``: the information-maximising GAN, for tables (Chen et al. 2016, arXiv:1606.03657).

Never shows its head a real record: what the codes mean is learned on fakes alone, at no cost of privacy.

Shapes: a record is one-hot, ``(width,)``; the critic is an MLP from it to one score; the generator is
a residual MLP from noise, a one-hot code and continuous codes, ``(latent + categories + codes,)``, to
logits; the head is an MLP from a record to what it takes the codes for, ``(categories + codes,)``.

Private part: the anchor's statistics, and the gradient of -log sigmoid(score) of each real record.
Public part: the original GAN's losses of fakes, and for generator and head together the negative
lower bound of the codes' mutual information with the record: the cross entropy of the one-hot code
and half the squared error of the continuous ones (a normal posterior of variance 1). It already
takes part in the fit of the anchor, so that codes get a meaning there. The head is a network of its
own, for the critic's features belong to a private gradient and would be moved by a public loss.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import BaseModel, Field
from torch import nn
from torch.nn import functional

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.study import Study

from .adversarial.gan_family import Fakes
from .adversarial.gan_options import Weight, read_options
from .adversarial.losses import LOGISTIC
from .adversarial.table_gan import TableGan, TableGanOptions
from .tables.network import NetworkGenerator
from .tables.table_fitting import TableFitting

REACH = 3**0.5  # of a continuous code to either side, which makes its variance 1 as the noise's is


class InfoganOptions(TableGanOptions):
    """What a study may set besides what every GAN for tables has.

    Attributes:
        categories: values of the one-hot code; 0 for none.
        codes: number of continuous codes.
        head_hidden: width of the head's layer.
        information: weight of the codes' mutual information with the record against the two-way misfit.
    """

    categories: Annotated[int, Field(ge=0, le=64)] = 4
    codes: Annotated[int, Field(ge=0, le=16)] = 2
    head_hidden: Annotated[int, Field(ge=1, le=4096)] = 64
    information: Weight = 0.3


class CodedGenerator(NetworkGenerator):
    """A generator with codes in its input, and the head that reads them from its records."""

    def __init__(self, latent: int, hidden: int, depth: int, sizes: Sequence[int], options: InfoganOptions) -> None:
        """Build for columns with ``sizes`` cells."""
        super().__init__(latent, hidden, depth, sizes, options.categories + options.codes)
        self.options = options
        self.head = nn.Sequential(
            nn.Linear(sum(sizes), options.head_hidden),
            nn.LeakyReLU(0.2),
            nn.Linear(options.head_hidden, options.categories + options.codes),
        )

    def latents(self, rows: int, rng: torch.Generator, chances: torch.Tensor | None = None) -> torch.Tensor:
        """Return noise, a one-hot code and uniform continuous codes, shape ``(rows, latent + appended)``."""
        options, parts = self.options, [super().latents(rows, rng, chances)]
        if options.categories:
            drawn = torch.randint(options.categories, (rows,), generator=rng)
            parts.append(functional.one_hot(drawn, options.categories).float())
        parts.append(REACH * (2 * torch.rand(rows, options.codes, generator=rng) - 1))
        return torch.cat(parts, 1)

    def path(self, steps: int, rng: torch.Generator) -> torch.Tensor:
        """Return inputs that differ in one code alone, shape ``(steps, latent + appended)``.

        A continuous code, drawn by ``rng``, goes from one end to the other; without any, the one-hot
        code takes its values in turn.
        """
        options, line = self.options, self.latents(1, rng).repeat(steps, 1)
        if options.codes:
            code = int(torch.randint(options.codes, (), generator=rng))
            line[:, self.latent + options.categories + code] = torch.linspace(-REACH, REACH, steps)
        else:
            turn = torch.arange(steps) * options.categories // max(steps, 1)
            line[:, self.latent :] = functional.one_hot(turn, options.categories).float()
        return line

    def uncertainty(self, latents: torch.Tensor, records: torch.Tensor) -> torch.Tensor:
        """Return how uncertain the head is of the codes that records were made from.

        Args:
            latents: with the codes, shape ``(rows, latent + appended)``.
            records: cells or their probabilities, shape ``(rows, width)``.
        """
        categories = self.options.categories
        told = latents[:, self.latent :]
        guessed: torch.Tensor = self.head(records)
        loss = 0.5 * (told[:, categories:] - guessed[:, categories:]).square().sum(1).mean()
        if categories:
            loss = loss + functional.cross_entropy(guessed[:, :categories], told[:, :categories].argmax(1))
        return loss

    def fit_loss(self, latents: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """Return the uncertainty of the codes, weighted, so that they get a meaning in the anchor's fit."""
        return self.options.information * self.uncertainty(latents, expected)


class Infogan(TableGan):
    """The model plugin ``infogan``."""

    Options: type[BaseModel] = InfoganOptions
    losses = LOGISTIC
    options: InfoganOptions

    def __init__(self, study: Study) -> None:
        """Read the study's schema, privacy constants and model options, and nothing else.

        Raises:
            ConfigError: an option is unknown or out of range, there is no code, or a column is an array.
        """
        options = read_options(InfoganOptions, study)
        if options.categories + options.codes == 0:
            raise ConfigError("categories and codes are both 0; give the latent a code", where="model.options")

        def make(latent: int, hidden: int, depth: int, sizes: Sequence[int]) -> NetworkGenerator:
            return CodedGenerator(latent, hidden, depth, sizes, options)

        super().__init__(study, options, make=make)

    def public_losses(
        self, generator: nn.Module, fitting: TableFitting, fakes: Fakes
    ) -> Mapping[str, tuple[float, torch.Tensor]]:
        """Return the misfits to the anchor and the head's uncertainty of the codes."""
        losses = dict(super().public_losses(generator, fitting, fakes))
        if isinstance(generator, CodedGenerator):
            uncertainty = generator.uncertainty(fakes.latents, fakes.records)
            losses["codes_uncertainty"] = (self.options.information * self.options.pairs_anchor, uncertainty)
        return losses
