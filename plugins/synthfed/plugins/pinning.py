"""From a study's terms to what every party pins: the plan, the plugin's code, the policy.

Never takes anything from a peer: the same terms and plugin give the same policy everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from synthfed.protocols.errors import ConfigError, PluginError, StudyError
from synthfed.protocols.ids import digest
from synthfed.protocols.privacy.plan import make_plan
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.study import Study

from .api import Domain, Model
from .constrained import make_model
from .registry import Plugin, find


@dataclass(frozen=True, slots=True)
class Pinned:
    """A study with its plugins loaded and its policy fixed.

    Attributes:
        policy: the terms, the plan and the hash of both plugins' code.
        plugin: what was pinned of the model.
        model: an instance of it, for these terms.
        reader: what was pinned of the domain.
        domain: an instance of it.
    """

    policy: Policy
    plugin: Plugin
    model: Model
    reader: Plugin
    domain: Domain


def pin(study: Study) -> Pinned:
    """Return the policy and plugins of a study.

    Raises:
        PluginError: a plugin is missing or broken.
        StudyError: the options are wrong or the promise cannot be met.
    """
    plugin, reader = find("synthfed.models", study.model.plugin), find("synthfed.domains", study.domain)
    code = digest("code", plugin.hash, reader.hash)
    try:
        model = make_model(plugin, study)
        with plugin.blamed("cannot declare its sums"):
            sums = model.sums()
        domain: Domain = reader.make()
        with reader.blamed("cannot check a schema"):
            for columns in dict.fromkeys((study.columns, study.released.columns)):  # of sites' files, and of a release
                domain.check(columns)
        plan = make_plan(study, sums)
    except ConfigError as error:
        raise StudyError(str(error)) from None
    return Pinned(Policy(study, plan, code), plugin, model, reader, domain)


@contextmanager
def naming(file: str) -> Iterator[None]:
    """Put the study's file in front of an error that `pin` raises inside, which knows the terms only."""
    try:
        yield
    except (StudyError, PluginError) as error:
        error.args = (f"{file}: {error}",)
        raise
