"""A real home of site a, whose study two further sites have agreed to."""

import base64
import shutil
import time
from dataclasses import replace
from pathlib import Path

from synthfed.client.config import Home
from synthfed.client.consent.decisions import write_decision
from synthfed.client.consent.desk import decide, open_desk
from synthfed.client.consent.standing import code_of
from synthfed.client.enrol import init_home
from synthfed.client.keys.identity import load_identity
from synthfed.protocols.approval import Decision
from synthfed.protocols.enrolment import Invitation
from synthfed.protocols.study import Study
from synthfed.server.study_file import render_study

ROWS = "x,ill\n" + "".join(f"{i / 30},{'yes' if i % 3 else 'no'}\n" for i in range(30))
SMALL = {"refine": True, "bins": 8, "fit_steps": 40, "fakes": 128, "generator_hidden": 32, "critic_hidden": 8}


def make_home(folder: Path, address: str, ca: str) -> Home:
    """Return a home in which everything is well, for a coordinator at an address with a certificate of ``ca``."""
    invitation = folder / "invitation.json"
    invitation.write_text(Invitation(address=address, ca=ca).model_dump_json(), encoding="utf-8")
    home = Home(folder / "a")
    enrolment, _ = init_home(home, invitation, "a", "", "data.csv")
    (home.path / "data.csv").write_text(ROWS, encoding="utf-8")
    keys = {"a": enrolment.identity, **{site: base64.b64encode(site.encode() * 32).decode() for site in ("b", "c")}}
    study = Study.model_validate(
        {
            "format": 1,
            "name": "first",
            "target": "ill",
            "privacy": {
                "mode": "distributed",
                "epsilon": 5.0,
                "delta": 1e-5,
                "units_per_site": 40,
                "sample_rate": 0.5,
                "steps": 6,
                "answer_time_s": 5.0,
                "statistic_time_s": 5.0,
            },
            "model": {"plugin": "tabular-gan", "options": SMALL},
            "cohort": {"tolerated": 1, "quorum": 3, "sites": [{"id": site, "key": key} for site, key in keys.items()]},
            "columns": [
                {"name": "x", "kind": "real", "lower": 0, "upper": 1},
                {"name": "ill", "kind": "categorical", "values": ["no", "yes"]},
            ],
        }
    )
    (home.path / "study.toml").write_text(render_study(study), encoding="utf-8")
    approve(home)
    return home


def copied(made: Home, folder: Path) -> Home:
    """Return a copy of a home, for a test that changes it: to make one and approve its study takes a second."""
    return Home(Path(shutil.copytree(made.path, folder / made.path.name)))


def approve(home: Home) -> None:
    """Let the site's own key approve the study that lies in the home now."""
    desk = open_desk(home, None)
    decide(desk, "approve", desk.identity, None)


def approve_code(home: Home) -> None:
    """Let the site's own key approve the plugins of the study as they are installed, under a plan made elsewhere."""
    config = home.load()
    subject = replace(code_of(config.site, home.load_study(config)), policy="0a" * 32)
    write_decision(home.decisions, Decision.of(load_identity(home.identity), "approve", subject, int(time.time())))
