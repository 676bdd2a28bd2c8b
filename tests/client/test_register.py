"""The register of data sets: renamed, copied or grown, records keep the one ledger that their budget is in."""

import json
import shutil
import stat
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.homes import approve, copied

from synthfed.client.admission import Admission
from synthfed.client.check import preflight
from synthfed.client.config import Home, register_folder
from synthfed.client.data import read_table
from synthfed.client.dataset import SKETCH_SIZE, Marks, fingerprint, marks_of, overlap
from synthfed.client.keys.identity import load_identity
from synthfed.client.register import Register
from synthfed.client.site import open_agent
from synthfed.client.vault import Ledger
from synthfed.plugins.api import Table
from synthfed.plugins.domains.table import TableDomain
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Real

KEY = b"k" * 32


def table(rows: range, *, named: bool = True, seed: int = 0, columns: int = 2) -> Table:
    """Return records that are a function of their number and a seed, one for each unit."""
    records = np.array([np.random.default_rng([seed, each]).normal(size=columns) for each in rows])
    names = tuple(f"p{each}" for each in rows) if named else ()
    return Table(records, np.arange(len(rows)), unit_names=names)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    path.write_text("x\n1\n", encoding="utf-8")
    return path


def marks(path: Path, content: Table, text: str = "") -> Marks:
    path.write_text(text or str(content.records), encoding="utf-8")
    return marks_of(path, content, KEY)


@pytest.mark.parametrize("named", [True, False])
def test_records_are_known_again_when_their_file_was_renamed_shuffled_cut_or_has_grown(file: Path, named: bool) -> None:
    known = marks(file, table(range(2000), named=named))
    order = np.random.default_rng(1).permutation(2000)
    whole = table(range(2000), named=named)
    shuffled = Table(whole.records[order], whole.units[order], unit_names=whole.unit_names)
    again = (
        shuffled,
        table(range(700), named=named),
        table(range(5000), named=named),
        table(range(900, 2700), named=named),
    )
    for number, each in enumerate(again):
        assert marks(file.with_name(f"other{number}.csv"), each).is_like(known)
    for number, each in enumerate((table(range(1900, 3900), named=named), table(range(2000), named=named, seed=1))):
        assert not marks(file.with_name(f"others{number}.csv"), each).is_like(known)


def test_sites_that_number_their_patients_alike_have_other_records_all_the_same(file: Path) -> None:
    one, two = (marks(file.with_name(f"{seed}.csv"), table(range(500), seed=seed)) for seed in (1, 2))
    assert not one.is_like(two)


def test_a_file_that_was_copied_and_a_place_are_known_whatever_columns_a_study_asks_for(file: Path) -> None:
    known = marks(file, table(range(50), columns=2), "the same bytes")
    assert marks(file.with_name("copy.csv"), table(range(50), columns=3), "the same bytes").is_like(known)
    assert marks(file, table(range(50), columns=3), "other bytes").is_like(known)
    link = file.with_name("link.csv")
    link.symlink_to(file)
    assert marks_of(link, table(range(50), columns=3), KEY).place == known.place
    assert not marks(file.with_name("copy.csv"), table(range(50), columns=3), "other bytes").is_like(known)


def test_records_that_look_like_each_other_tell_nothing_by_themselves(file: Path) -> None:
    few = Table(np.array([[0.0], [1.0]] * 40), np.arange(80))
    assert marks(file, few).sketch == frozenset()
    assert not marks(file.with_name("a.csv"), few, "a").is_like(marks(file.with_name("b.csv"), few, "b"))


def test_a_databases_table_is_known_by_its_name_and_not_by_user_or_password(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    found = []
    for number, (user, name) in enumerate([("ann:one", "visits"), ("ben:two", "visits"), ("ann:one", "stays")]):
        path = tmp_path / f"{number}.toml"
        url = f"postgresql+psycopg://{user}@/clinic?host=/run/postgresql"
        path.write_text(f'format = 1\nurl = "{url}"\ntable = "{name}"\n', encoding="utf-8")
        path.chmod(0o600)
        found.append(marks_of(path, table(range(50), seed=number), KEY))
    assert [each.content for each in found] == ["", "", ""]
    assert found[0].is_like(found[1])
    assert not found[0].is_like(found[2])


@given(st.sets(st.integers(0, 10**6), max_size=40), st.sets(st.integers(0, 10**6), max_size=40))
def test_the_overlap_of_whole_sketches_is_exact_and_symmetric(one: set[int], other: set[int]) -> None:
    texts = [frozenset(f"{each:016x}" for each in numbers) for numbers in (one, other)]
    least = min(len(one), len(other))
    assert overlap(*texts) == overlap(*reversed(texts)) == (len(one & other) / least if least else 0)


def test_without_the_key_no_mark_can_be_made_again_and_none_shows_a_value(file: Path) -> None:
    content = table(range(600))
    first, second = marks_of(file, content, KEY), marks_of(file, content, b"o" * 32)
    assert first.place != second.place
    assert first.content != second.content
    assert len(first.sketch) == SKETCH_SIZE
    assert not first.sketch & second.sketch
    told = [fingerprint(first, unit, key) for unit in (None, "", "patient") for key in (KEY, b"o" * 32)]
    assert len(set(told)) == len(told)


def test_a_second_home_for_the_same_records_is_refused_until_a_person_says_that_they_are_others(
    made_home: Home, tmp_path: Path
) -> None:
    first = copied(made_home, tmp_path)
    with open_agent(first) as agent:
        assert agent.ledger.book.ledger
    (tmp_path / "second").mkdir()
    second = copied(made_home, tmp_path / "second")  # as `init` makes it: nothing was ever loaded there
    (second.path / "data.csv").rename(second.path / "renamed.csv")
    text = second.config.read_text(encoding="utf-8").replace('data = "data.csv"', 'data = "renamed.csv"')
    second.config.write_text(text, encoding="utf-8")
    named = rf"data: these records' budget is kept in the ledger of {first.path.absolute()}, and a second ledger"
    with pytest.raises(ConfigError, match=named), open_agent(second):
        pass
    assert any(not each.is_ok and "kept in the ledger of" in each.detail for each in preflight(second))
    with closing(Ledger(second.ledger, load_identity(second.identity))) as ledger:
        assert ledger.book.ledger == ""
    with open_agent(first) as agent:  # the home that keeps the budget goes on, without another entry
        name = agent.ledger.book.ledger
        assert agent.ledger._position == 2
    second.config.write_text(text.replace("[ceiling]", f'distinct_from = ["{name}"]\n\n[ceiling]'), encoding="utf-8")
    with open_agent(second) as agent:
        assert agent.ledger.book.ledger != name


def test_a_copied_home_is_refused_and_a_moved_one_is_not(made_home: Home, tmp_path: Path) -> None:
    home = copied(made_home, tmp_path)
    admit(home)
    (tmp_path / "other").mkdir()
    copy = copied(home, tmp_path / "other")
    with pytest.raises(ConfigError, match=rf"is a copy of {home.path.absolute()}, or that is one of it"):
        admit(copy)
    shutil.rmtree(home.path)
    admit(copy)
    admit(copy)


def test_other_records_in_one_home_add_to_what_its_ledger_keeps(made_home: Home, tmp_path: Path) -> None:
    home = copied(made_home, tmp_path)
    admit(home)
    before = (home.path / "data.csv").read_text(encoding="utf-8")
    (home.path / "data.csv").write_text("x,ill\n" + "".join(f"{i / 77},no\n" for i in range(35)), encoding="utf-8")
    admit(home)
    (known,) = register_folder().glob("*.json")
    assert len(json.loads(known.read_text())["data"]) == 2
    (tmp_path / "second").mkdir()
    second = copied(made_home, tmp_path / "second")
    (second.path / "data.csv").write_text(before + "0.999,no\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="budget is kept in the ledger of"):
        admit(second)
    with closing(Ledger(home.ledger, load_identity(home.identity))) as ledger:
        assert ledger._position == 2


def test_the_register_is_private_and_a_damaged_file_stops_everything(made_home: Home, tmp_path: Path) -> None:
    home = copied(made_home, tmp_path)
    admit(home)
    folder = register_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir() if each.name != "lock"} == {
        "key": 0o600,
        next(folder.glob("*.json")).name: 0o600,
    }
    text = next(folder.glob("*.json")).read_text(encoding="utf-8")
    assert "0.033" not in text
    assert "data.csv" not in text
    next(folder.glob("*.json")).write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read or was changed; restore it"):
        admit(home)
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match="can be entered by others"):
        Register(folder)


def admit(home: Home) -> None:
    """Let a home ask for its records as its agent does."""
    config = home.load()
    study, identity = home.load_study(config), load_identity(home.identity)
    content = read_table(home.path / config.data, study, TableDomain(), config.site)
    with closing(Ledger(home.ledger, identity)) as ledger:
        Admission(home, config, study, identity, ledger).admit(content)


def test_a_renamed_study_and_file_in_one_home_go_on_with_its_ledger(made_home: Home, tmp_path: Path) -> None:
    home = copied(made_home, tmp_path)
    admit(home)
    (home.path / "data.csv").rename(home.path / "new.csv")
    home.config.write_text(home.config.read_text(encoding="utf-8").replace("data.csv", "new.csv"), encoding="utf-8")
    approve(home)
    admit(home)
    with closing(Ledger(home.ledger, load_identity(home.identity))) as ledger:
        assert ledger._position == 2


@pytest.mark.parametrize("drop_invalid", [True, False])
def test_a_table_tells_the_names_of_just_the_units_that_it_has(tmp_path: Path, drop_invalid: bool) -> None:
    path = tmp_path / "data.csv"
    bad = "ben,7\n" if drop_invalid else ""
    path.write_text(f"who,x\nann,0.1\n{bad} cem ,0.2\nann,0.3\n", encoding="utf-8")
    columns = [Real(name="x", kind="real", lower=0, upper=1)]
    read = TableDomain().read(path, columns, unit="who", records_per_unit=2, drop_invalid=drop_invalid)
    assert [read.unit_names[each] for each in read.units] == ["ann", "cem", "ann"]
    assert len(read.unit_names) == 2
    alone = TableDomain().read(path, columns, unit=None, records_per_unit=1, drop_invalid=drop_invalid)
    assert alone.unit_names == ()
