"""Whether a study counts this site in: its key in the roster, and what the site itself said about rows under its name.

Never loads a plugin or anything that takes long: people wait for it before they approve.
"""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.signed import decoded
from synthfed.protocols.study import Study

from .config import Home, SiteConfig, study_path
from .keys.rotation import earlier_keys


def check_roster(home: Home, config: SiteConfig, study: Study, identity: Ed25519PrivateKey) -> None:
    """Raise ConfigError unless the study's roster lists this site with this key."""
    listed, where = study.cohort.keys.get(config.site), str(study_path(home, config))
    if listed is None:
        raise ConfigError(
            f"the roster of study {study.name!r} does not list site {config.site!r}; ask the coordinator to add this "
            "home's enrolment.json and agree on the study again",
            where=where,
        )
    if listed in {decoded(key) for key in earlier_keys(home, identity)}:
        raise ConfigError(
            f"the roster of study {study.name!r} lists an earlier key of this home, {fingerprint(listed)}, which was "
            "rotated; send the coordinator this home's enrolment.json, and approve the terms with the new roster",
            where=where,
        )
    if listed != identity.public_key().public_bytes_raw():
        raise ConfigError(
            f"the roster of study {study.name!r} lists another key for site {config.site!r}; send the coordinator "
            "this home's enrolment.json and agree on the study again",
            where=where,
        )


def check_consent(home: Home, config: SiteConfig, study: Study) -> None:
    """Raise ConfigError where the study publishes rows by site and this site's own settings do not allow that."""
    if study.site_column is not None and not config.rows_by_site:
        raise ConfigError(
            f"rows_by_site: study {study.name!r} publishes every row under its site's id, in column "
            f"{study.site_column!r}, which tells this site's size, rates and gaps; set `rows_by_site = true` to allow "
            "that, or do not take part",
            where=str(home.config),
        )
