"""``gan``: the original GAN, for tables (Goodfellow et al. 2014, arXiv:1406.2661).

Never shows the generator a real record: it learns from the critic and released statistics alone.

Shapes: a record is one-hot, ``(width,)``, one block of cells per column; the critic is an MLP from it
to one score, the log odds of "real"; the generator gives every latent the logits of all
cells: a mixture of products, whose latent is a component, or a residual MLP.

Private part: the anchor's statistics, and the gradient of -log sigmoid(score) of each real record.
Public part: -log(1 - sigmoid(score)) of fakes for the critic, and -log sigmoid(score) of fakes, the
loss that does not saturate, for the generator, with the misfits to the anchor.
"""

from pydantic import BaseModel

from synthfed.protocols.study import Study

from .adversarial.gan_options import read_options
from .adversarial.losses import LOGISTIC
from .adversarial.table_gan import TableGan, TableGanOptions


class Gan(TableGan):
    """The model plugin ``gan``, also known as ``tabular-gan``."""

    Options: type[BaseModel] = TableGanOptions
    losses = LOGISTIC

    def __init__(self, study: Study) -> None:
        """Read the study's schema, privacy constants and model options, and nothing else.

        Raises:
            ConfigError: an option is unknown or out of range, or a column is an array.
        """
        super().__init__(study, read_options(TableGanOptions, study))
