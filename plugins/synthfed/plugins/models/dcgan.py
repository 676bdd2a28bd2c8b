"""``dcgan``: the deep convolutional GAN, for labelled images (Radford, Metz and Chintala 2016, arXiv:1511.06434).

Never uses BatchNorm, in which the images of a batch would see each other: GroupNorm (Wu and He 2018,
arXiv:1803.08494) stands in its place, in both networks.

Shapes: a record is an image with numbers in [-1, 1], flat, then one-hot labels, ``(width,)``; the
critic takes it through three strided convolutions to one score; the generator takes a draw of the
moment anchor, its labels and noise, ``(width,)`` and ``(latent,)``, through two strided and two
fractionally strided convolutions to the change that it adds to the draw.

Private part: the anchor's statistics, and the gradient of -log sigmoid(score) of each real record.
Public part: the original GAN's losses of fakes, and the mean squared change of the draws. The
generator's last layer starts at zero, so that before the first step of the critic its images are the
anchor's; a cold generator learns little under noise. Labels are drawn by the anchor, so all of them
are conditions.
"""

from pydantic import BaseModel

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.study import Study

from .adversarial.array_gan import ArrayGan, ArrayGanOptions
from .adversarial.gan_options import read_options


class DcganOptions(ArrayGanOptions):
    """What a study may set: what every GAN for arrays has."""


class Dcgan(ArrayGan):
    """The model plugin ``dcgan``."""

    Options: type[BaseModel] = DcganOptions
    options: DcganOptions

    def __init__(self, study: Study) -> None:
        """Read the study's schema, privacy constants and model options, and nothing else.

        Raises:
            ConfigError: an option is unknown or out of range, or the columns are not one image and a few labels.
        """
        super().__init__(study, read_options(DcganOptions, study))
        if len(self.shape) != 3:
            raise ConfigError(
                "model 'dcgan' is for images, arrays of shape (channels, height, width); use 'signal-gan' for series",
                where="columns",
            )
