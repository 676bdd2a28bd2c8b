"""Every model, domain and audit that comes with synthfed passes the conformance kit, without a waiver."""

from collections.abc import Collection
from importlib import metadata
from typing import Any

import pytest

from synthfed.plugins.api import Audit, Domain, Model
from synthfed.plugins.audits.attribute import Attribute
from synthfed.plugins.audits.copies import Copies
from synthfed.plugins.audits.detection import Detection
from synthfed.plugins.audits.diversity import Diversity
from synthfed.plugins.audits.fidelity import Fidelity
from synthfed.plugins.audits.membership import Membership
from synthfed.plugins.audits.recognition import Recognition
from synthfed.plugins.audits.utility import Utility
from synthfed.plugins.domains.ehr import EhrDomain
from synthfed.plugins.domains.image import ImageDomain
from synthfed.plugins.domains.signal import SignalDomain
from synthfed.plugins.domains.table import TableDomain
from synthfed.plugins.models.adversarial.gan_options import GanOptions
from synthfed.plugins.models.cgan import Cgan
from synthfed.plugins.models.dcgan import Dcgan
from synthfed.plugins.models.gan import Gan
from synthfed.plugins.models.infogan import Infogan
from synthfed.plugins.models.made import Made
from synthfed.plugins.models.moments import Moments
from synthfed.plugins.models.pixelcnn import PixelCnn
from synthfed.plugins.models.realnvp import RealNvp
from synthfed.plugins.models.signal_gan import SignalGan
from synthfed.plugins.models.vae import Cvae, Vae
from synthfed.plugins.models.wgan import Wgan
from synthfed.plugins.testing import Report, check_audit, check_domain, check_model

MIXED, NUMBERS = "a table of mixed columns", "a table of numbers"
IMAGES, SERIES = "images with a label", "series with a label"

TABLES: dict[str, Any] = {"bins": 6, "fit_steps": 20, "fakes": 64, "latent": 4, "generator_hidden": 16}
ARRAYS: dict[str, Any] = {"coefficients": 12, "directions": 4, "levels": 5}
GAN: dict[str, Any] = TABLES | {"refine": True, "batch": 32, "critic_hidden": 8, "comparison_steps": 10}
ARRAY_GAN: dict[str, Any] = ARRAYS | {
    "batch": 16,
    "latent": 2,
    "critic_channels": 4,
    "generator_channels": 4,
    "comparison_steps": 10,
}
# Few public steps, so they must be long ones: the kit asks whether anything was learnt.
LIKELIHOOD: dict[str, Any] = {"public_steps": 20, "public_rate": 0.02, "public_records": 128, "batch": 16}
VAE: dict[str, Any] = LIKELIHOOD | {"hidden": 8, "latent_width": 2}
PIXELS: dict[str, Any] = {"public_steps": 12, "greys": 4, "channels": 2, "depth": 2}

ALL_OF_GANS: dict[str, Any] = {
    "critic_ladder": [1, 2],
    "ladder_accuracy": 0.9,
    "ladder_grace": 1,
    "pretraining": 2,
    "spectral": 1.0,
    "critic_dropout": 0.2,
    "generator_dropout": 0.2,
    "mixup": 0.3,
    "mixup_partners": 8,
    "features_share": 0.1,
    "features_every": 2,
    "diversity": 0.5,
}

FAMILIES: dict[str, tuple[type[Model], dict[str, Any], tuple[str, ...]]] = {
    "gan": (Gan, GAN, (MIXED, NUMBERS)),
    "gan that takes local steps": (Gan, GAN | {"local_steps": 2, "local_fakes": 16}, (MIXED,)),
    "gan with all options": (Gan, GAN | ALL_OF_GANS | {"generator": "network"}, (MIXED,)),
    "wgan": (Wgan, GAN, (MIXED, NUMBERS)),
    "wgan that clips": (Wgan, GAN | {"lipschitz": "clip"}, (NUMBERS,)),
    "cgan": (Cgan, GAN | {"conditions": ["kind", "ill"], "balance": 0.5}, (MIXED,)),
    "infogan": (Infogan, GAN | {"head_hidden": 8}, (MIXED,)),
    "dcgan": (Dcgan, ARRAY_GAN, (IMAGES,)),
    "dcgan with all options": (Dcgan, ARRAY_GAN | ALL_OF_GANS | {"anchor_share": 0.8}, (IMAGES,)),
    "signal-gan": (SignalGan, ARRAY_GAN, (SERIES,)),
    "moments": (Moments, ARRAYS, (IMAGES, SERIES)),
    "vae": (Vae, TABLES | VAE, (MIXED,)),
    "vae of arrays": (Vae, ARRAYS | VAE, (IMAGES,)),
    "cvae": (Cvae, TABLES | VAE | {"conditions": ["kind", "ill"]}, (MIXED,)),
    "cvae of arrays": (Cvae, ARRAYS | VAE, (SERIES,)),
    "made": (Made, TABLES | LIKELIHOOD | {"hidden": 16}, (NUMBERS,)),
    "realnvp": (RealNvp, TABLES | LIKELIHOOD | {"hidden": 8, "couplings": 2}, (MIXED,)),
    "pixelcnn": (PixelCnn, ARRAYS | LIKELIHOOD | PIXELS, (IMAGES,)),
}

DOMAINS: dict[type[Domain], tuple[str, ...]] = {
    TableDomain: (MIXED, NUMBERS),
    EhrDomain: (MIXED, NUMBERS),
    ImageDomain: (IMAGES,),
    SignalDomain: (SERIES,),
}

AUDITS: dict[type[Audit], tuple[str, ...]] = {
    Fidelity: (MIXED, NUMBERS),
    Utility: (MIXED, NUMBERS),
    Recognition: (IMAGES, SERIES),
    Diversity: (MIXED, NUMBERS, IMAGES, SERIES),
    Attribute: (MIXED, NUMBERS),
    Copies: (MIXED, NUMBERS, IMAGES, SERIES),
    Detection: (MIXED, NUMBERS),
    Membership: (MIXED, NUMBERS, IMAGES, SERIES),
}


def assert_all_passed(report: Report, kinds: Collection[str]) -> None:
    """Assert that every check was asked and passed, none waived, on exactly these kinds of data."""
    assert {each.outcome for each in report.results} == {"passed"}, report
    assert {each.case for each in report.results} == set(kinds)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_keeps_every_promise_of_the_contract(name: str) -> None:
    plugin, options, kinds = FAMILIES[name]
    assert_all_passed(check_model(plugin, options=options, kinds=kinds), kinds)


@pytest.mark.parametrize("plugin", DOMAINS)
def test_a_domain_keeps_every_promise_of_the_contract(plugin: type[Domain]) -> None:
    assert_all_passed(check_domain(plugin), DOMAINS[plugin])


@pytest.mark.parametrize("plugin", AUDITS)
def test_an_audit_keeps_every_promise_of_the_contract(plugin: type[Audit]) -> None:
    assert_all_passed(check_audit(plugin), AUDITS[plugin])


@pytest.mark.parametrize(
    ("group", "checked"),
    [("models", {plugin for plugin, _, _ in FAMILIES.values()}), ("domains", set(DOMAINS)), ("audits", set(AUDITS))],
)
def test_every_declared_plugin_is_checked(group: str, checked: set[type]) -> None:
    declared = metadata.entry_points(group=f"synthfed.{group}")
    assert {point.load() for point in declared if point.dist and point.dist.name == "synthfed"} == checked


def test_all_options_of_gans_that_are_off_by_default_are_switched_on() -> None:
    off = {name for name, field in GanOptions.model_fields.items() if field.default in (0, (1,))}
    assert off <= set(ALL_OF_GANS)
    assert len(off) >= 8
