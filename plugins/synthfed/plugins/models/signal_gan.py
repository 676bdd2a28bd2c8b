"""``signal-gan``: a convolutional GAN for labelled series of several leads, such as electrocardiograms.

Never mixes the series of a batch: GroupNorm in both networks.

After SynSigGAN (Hazra and Byun 2020, doi:10.3390/biology9120441), with the strided convolutions of
Radford, Metz and Chintala (2016, arXiv:1511.06434) along time in place of recurrent layers: those
use a weight at every step, which would cost far longer per-record gradients.

Shapes: a record is a series with numbers in [-1, 1], lead after lead, then one-hot labels,
``(width,)``; the critic takes it, leads as channels, through three strided convolutions to one score;
the generator takes a draw of the moment anchor, its labels and noise through two strided and two
fractionally strided convolutions to the change that it adds to the draw.

Private part: the anchor's statistics, and the gradient of -log sigmoid(score) of each real record.
Public part: the original GAN's losses of fakes, and the mean squared change of the draws. All labels
are conditions.
"""

from pydantic import BaseModel

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.study import Study

from .adversarial.array_gan import ArrayGan, ArrayGanOptions
from .adversarial.gan_options import read_options


class SignalGanOptions(ArrayGanOptions):
    """What a study may set: what every GAN for arrays has."""


class SignalGan(ArrayGan):
    """The model plugin ``signal-gan``."""

    Options: type[BaseModel] = SignalGanOptions
    options: SignalGanOptions

    def __init__(self, study: Study) -> None:
        """Read the study's schema, privacy constants and model options, and nothing else.

        Raises:
            ConfigError: an option is unknown or out of range, or the columns are not one series and a few labels.
        """
        super().__init__(study, read_options(SignalGanOptions, study))
        if len(self.shape) != 2:
            raise ConfigError(
                "model 'signal-gan' is for series, arrays of shape (leads, steps); use 'dcgan' for images",
                where="columns",
            )
