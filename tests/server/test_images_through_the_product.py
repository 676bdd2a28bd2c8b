"""Images all the way: drafted, simulated, released with pictures, sampled on conditions, audited."""

import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from synthfed.plugins.cli import app
from synthfed.plugins.domains.image import ImageDomain
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.study import parse_study
from synthfed.server.evidence import Evidence
from synthfed.server.release import open_release
from synthfed.server.releases.auditing import audit_release

PIXEL_MEANS = '''
import numpy as np
from synthfed.plugins.api import Ask
from synthfed.plugins.domains.arrays import ArrayEncoder
from synthfed.protocols.schema import Strict
from synthfed.protocols.sums import Sum


class Model:
    """Noisy mean images of each label, and pixels drawn around them: the least model of images."""

    Options = Strict

    def __init__(self, study):
        self.encoder = ArrayEncoder(study.columns, "model 'pixel-means'")
        self.label = self.encoder.labels[0]
        self.conditions = (self.label.name,)
        self.dim = self.encoder.sizes[0] * (1 + self.encoder.numbers)

    def sums(self):
        return (Sum("means", "statistic", self.dim, 1.0, 1.0, 2, 1.0),)

    def private(self):
        return self

    def encode(self, records):
        return self.encoder.encode(records)

    def statistic(self, name, batch, payload):
        pixels, labels = batch[:, : self.encoder.numbers], batch[:, self.encoder.numbers :]
        parts = np.column_stack([np.full(len(batch), 0.5), 0.8 * pixels / np.sqrt(self.encoder.numbers)])
        return (labels[:, :, None] * parts[:, None]).reshape(len(batch), -1)

    def trainer(self, seed):
        return Trainer(self.encoder)


class Trainer:
    def __init__(self, encoder):
        self.encoder, self.total, self.rounds = encoder, 0.0, 0

    def ask(self, remaining):
        return Ask("means", {}) if remaining["means"] else None

    def overlap(self):
        pass

    def receive(self, answer):
        self.total, self.rounds = self.total + answer.total, self.rounds + 1

    def means(self):
        total = np.reshape(self.total, (self.encoder.sizes[0], -1))
        counts = np.maximum(total[:, :1], 1.0) / 0.5
        return counts[:, 0], total[:, 1:] / 0.8 * np.sqrt(self.encoder.numbers) / counts

    def sample(self, rows, seed, given):
        rng = np.random.default_rng(seed)
        counts, means = self.means()
        name = self.encoder.labels[0].name
        codes = rng.choice(len(counts), rows, p=counts / counts.sum())
        codes = np.full(rows, given[name].cell(len(counts))) if name in given else codes
        return self.encoder.decode(means[codes] + rng.normal(0, 0.25, (rows, self.encoder.numbers)), codes[:, None])

    def walk(self, walks, steps, seed):
        rng = np.random.default_rng(seed)
        share = np.tile(np.linspace(0, 1, steps), walks)[:, None]
        first, last = (np.repeat(rng.integers(len(self.means()[1]), size=walks), steps) for _ in range(2))
        images = (1 - share) * self.means()[1][first] + share * self.means()[1][last]
        return self.encoder.decode(images, np.where(share < 0.5, first[:, None], last[:, None]))

    def state(self):
        return {"total": np.asarray(self.total), "rounds": np.array(self.rounds)}

    def load(self, state):
        self.total, self.rounds = state["total"], int(state["rounds"])

    def progress(self):
        return {"rounds": float(self.rounds), "norm": float(np.linalg.norm(self.total))}
'''
SITES = ("a", "b", "c")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the digits of three sites, one of which keeps them as image files, and a public file."""
    place = tmp_path_factory.mktemp("images")
    data = load_digits()
    scaled = np.rint(data.images * 255 / 16).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(scaled))
    for i, name in enumerate(("public", "holdout", *SITES)):
        mine = order[i * 300 : (i + 1) * 300]
        if name == "c":
            (place / name).mkdir()
            lines = [f"{n}.png,{data.target[n]}" for n in mine]
            (place / name / "labels.csv").write_text("\n".join(["file,digit", *lines]) + "\n")
            for n in mine:
                Image.fromarray(scaled[n]).save(place / name / f"{n}.png")
        else:
            np.savez(place / f"{name}.npz", image=scaled[mine], digit=data.target[mine])
    return place


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out a distribution of a model plugin as pip would install it, and return its folder."""
    site = tmp_path_factory.mktemp("site-packages")
    info = site / "pixel_means_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: pixel_means_dist\nVersion: 1.0\nRequires-Dist: synthfed>=0\n"
    )
    (info / "entry_points.txt").write_text("[synthfed.models]\npixel-means = pixel_means_plugin:Model\n")
    (site / "pixel_means_plugin.py").write_text(PIXEL_MEANS)
    return site


@pytest.fixture
def installed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(model))


def synthfed(*arguments: object) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def draft(folder: Path, out: Path) -> None:
    terms = (
        "--domain",
        "image",
        "--model",
        "pixel-means",
        "--target",
        "digit",
        "--epsilon",
        8,
        "--units-per-site",
        300,
    )
    sites = [part for site in SITES for part in ("--site", site)]
    synthfed("study", "new", "--from", folder / "public.npz", "--out", out, "--units-per-site", 300, *terms, *sites)


@pytest.fixture(scope="module")
def release(folder: Path, model: Path) -> Path:
    """Return a release of images, drafted and simulated by the commands."""
    sys.path.insert(0, str(model))
    try:
        draft(folder, folder / "study.toml")
        paths = [
            part for site in SITES for part in ("--site", f"{site}={folder / site}{'' if site == 'c' else '.npz'}")
        ]
        synthfed("simulate", folder / "study.toml", *paths, "--out", folder / "release", "--rows", 500, "--seed", 3)
    finally:
        sys.path.remove(str(model))
    return folder / "release"


def test_a_study_is_drafted_with_its_array_column(release: Path) -> None:
    study = parse_study((release / "study.toml").read_text(), where="test")
    assert study.domain == "image"
    assert [column.kind for column in study.columns] == ["array", "categorical"]
    assert "shape = [1, 8, 8]" in (release / "study.toml").read_text()


def test_the_release_holds_arrays_and_pictures(release: Path) -> None:
    with np.load(release / "synthetic.npz", allow_pickle=False) as file:
        assert (file["image"].shape, file["image"].dtype) == ((500, 1, 8, 8), np.dtype(np.uint8))
        assert set(file["digit"].tolist()) == set(range(10))
    names = {path.name for path in (release / "pictures").iterdir()}
    assert names == {"samples.png", "means.png", "walk.png", "curves.png"}
    for name in names:
        with Image.open(release / "pictures" / name) as picture:
            assert picture.format == "PNG"
    with Image.open(release / "pictures" / "samples.png") as picture:
        assert picture.height == 10 * 60 + 4  # one row for each digit


class Images(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


def test_the_evidence_and_the_page_name_both_plugins_that_the_sites_pinned(release: Path) -> None:
    evidence = Evidence.from_json((release / "evidence.json").read_bytes(), where="evidence.json")
    assert (evidence.plugin.name, evidence.plugin.distribution) == ("pixel-means", "pixel_means_dist")
    assert evidence.domain is not None
    assert (evidence.domain.name, evidence.domain.distribution) == ("image", "synthfed")
    page = (release / "report.html").read_text()
    assert f"<dd>image of synthfed {evidence.domain.version}, <code>{evidence.domain.hash}</code>" in page
    assert f"<dd>pixel-means of pixel_means_dist 1.0, <code>{evidence.plugin.hash}</code>" in page


def test_the_page_holds_the_pictures_itself_and_says_what_they_show(release: Path) -> None:
    page = (release / "report.html").read_text()
    found = Images(page).found
    assert len(found) == 3  # the curves are drawn by the page itself
    assert all((image["src"] or "").startswith("data:image/png;base64,") and image["alt"] for image in found)
    assert "one row for each value of 'digit': 0, 1, 2" in (found[0]["alt"] or "")
    assert "img-src data:" in page
    assert "http:" not in page and "https:" not in page
    document = json.loads((release / "report.json").read_text())
    assert [each["kind"] for each in document["distributions"]] == ["array, 1 by 8 by 8", "categorical"]
    assert sum(document["distributions"][0]["shares"]) == pytest.approx(1)


def test_more_images_of_one_digit_can_be_drawn(release: Path, installed: None, tmp_path: Path) -> None:
    out = tmp_path / "threes.npz"
    synthfed("sample", release, "--where", "digit = 3", "--rows", 20, "--out", out)
    with np.load(out, allow_pickle=False) as file:
        assert file["digit"].tolist() == [3] * 20
    again = tmp_path / "again.npz"
    synthfed("sample", release, "--rows", 500, "--seed", 3, "--out", again)
    assert again.read_bytes() == (release / "synthetic.npz").read_bytes()


def test_images_of_every_digit_can_be_drawn_equally_often(release: Path, installed: None, tmp_path: Path) -> None:
    out = tmp_path / "balanced.npz"
    synthfed("sample", release, "--balance", "digit", "--rows", 50, "--out", out)
    with np.load(out, allow_pickle=False) as file:
        assert np.bincount(file["digit"]).tolist() == [5] * 10


def test_walks_through_the_latent_space_can_be_drawn(release: Path, installed: None, tmp_path: Path) -> None:
    out = tmp_path / "walks.npz"
    synthfed("sample", release, "--walks", 4, "--rows", 20, "--seed", 2, "--out", out)
    with np.load(out, allow_pickle=False) as file:
        steps = np.abs(np.diff(file["image"].reshape(4, 5, -1).astype(float), axis=1)).sum(axis=2)
    assert np.abs(steps / steps.mean(axis=1, keepdims=True) - 1).max() < 0.2
    for wrong, words in ((("--walks", 3), "3 must divide --rows 20"), (("--walks", 20), "at least 2 rows each")):
        with pytest.raises(ConfigError, match=words):
            synthfed("sample", release, *wrong, "--rows", 20, "--out", out)
    with pytest.raises(ConfigError, match="--where: cannot be met along a walk"):
        synthfed("sample", release, "--walks", 4, "--rows", 20, "--where", "digit = 3", "--out", out)


def test_the_release_is_audited_as_arrays_and_keeps_its_pictures(release: Path, folder: Path, installed: None) -> None:
    columns = open_release(release).study.columns
    real = {
        name: ImageDomain().read(folder / name, columns, unit=None, records_per_unit=1).records
        for name in ("a.npz", "holdout.npz")
    }
    findings = {
        each.audit: each for each in audit_release(release, train=real["a.npz"], holdout=real["holdout.npz"], seed=0)
    }
    assert findings["fidelity"].unfit
    assert findings["utility"].unfit
    accuracy = findings["recognition"].estimates[0]
    assert accuracy.value > 0.7
    assert [each.name for each in findings["diversity"].estimates] == ["coverage", "density"]
    page = (release / "report.html").read_text()
    assert len(Images(page).found) == 3
    assert "Coverage of real rows" in page


def test_a_coordinator_without_the_library_is_told_before_a_round_is_spent(
    folder: Path, installed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft(folder, tmp_path / "study.toml")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    sites = [part for site in SITES for part in ("--site", f"{site}={folder / 'a.npz'}")]
    with pytest.raises(ConfigError, match="need Pillow"):
        synthfed("simulate", tmp_path / "study.toml", *sites, "--out", tmp_path / "release")
    assert not (tmp_path / "release").exists()
