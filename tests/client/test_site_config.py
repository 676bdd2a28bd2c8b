"""A site's settings: every mistake is one sentence with the file, the field and what is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest

from synthfed.client.config import LONGEST_SOCKET_PATH, Home, draft_config, private_paths, register_folder
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.study import Study
from synthfed.server.study_file import render_study

GOOD = draft_config("hospital-a", "Hospital A", "data.csv", "127.0.0.1:9092")

Write = Callable[[str], Home]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Home:
        (tmp_path / "site.toml").write_text(text, encoding="utf-8")
        return Home(tmp_path)

    return written


def test_a_drafted_file_is_complete_and_read_back(write: Write) -> None:
    config = write(GOOD).load()
    assert (config.site, config.controller, config.data) == ("hospital-a", "Hospital A", "data.csv")
    assert (config.coordinator.address, config.coordinator.ca, config.study) == (
        "127.0.0.1:9092",
        "node/ca.crt",
        "study.toml",
    )
    assert (config.ceiling.epsilon, config.ceiling.delta) == (8.0, 1e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 1\ncolour = 3", "colour: is not a known field"),
        ("epsilon = 8.0", "epsilon = 8.0\nunit = 3", r"ceiling\.unit: is not a known field"),
        ("format = 1", "", "format: is missing"),
        ("format = 1", "format = 2", "format: must be 1 \\(is 2\\)"),
        ('data = "data.csv"', "", "data: is missing"),
        ('data = "data.csv"', "data = 3", r"data: must be text in quotes \(is 3\)"),
        ("drop_invalid = false", "drop_invalid = 1", r"drop_invalid: must be true or false \(is 1\)"),
        ("epsilon = 8.0", "", r"ceiling\.epsilon: is missing"),
        ("epsilon = 8.0", 'epsilon = "8"', r"ceiling\.epsilon: must be a number \(is "),
        ("epsilon = 8.0", "epsilon = true", r"ceiling\.epsilon: must be a number \(is "),
        ("epsilon = 8.0", "epsilon = 0", r"ceiling\.epsilon: must be greater than 0 \(is 0\)"),
        ("epsilon = 8.0", "epsilon = 101", r"ceiling\.epsilon: must be at most 100 \(is 101\)"),
        ("epsilon = 8.0", "epsilon = inf", r"ceiling\.epsilon: must be a finite number"),
        ("epsilon = 8.0", "epsilon = nan", r"ceiling\.epsilon: must be a finite number"),
        ("delta = 1e-5", "delta = 0.5", r"ceiling\.delta: must be less than 0\.01"),
        ('"hospital-a"', '"Hospital A"', "site: must be 1-32 lower-case letters, digits and inner hyphens"),
        ('"hospital-a"', '"../../etc"', "site: must be 1-32 lower-case letters"),
        ('"hospital-a"', '"a\\n"', "site: must be 1-32 lower-case letters"),
        ('"hospital-a"', '""', "site: must be 1-32 lower-case letters"),
        ('"127.0.0.1:9092"', '"127.0.0.1"', r"coordinator\.address: must be HOST:PORT"),
        ('"127.0.0.1:9092"', '"https://a:1"', r"coordinator\.address: must be HOST:PORT"),
        ('"127.0.0.1:9092"', '"localhost:99999"', r"coordinator\.address: must be HOST:PORT.* a port from 1 to 65535"),
        ('ca = "node/ca.crt"', "ca = 1", r"coordinator\.ca: must be text in quotes"),
        (
            "[coordinator]",
            "[coordinators]",
            r"coordinators: is not a known field; remove it or mend its spelling \(and 1 more\)",
        ),
        ("format = 1", "format = ", "is not valid TOML: "),
    ],
)
def test_a_mistake_in_the_settings_names_file_field_and_what_is_wrong(
    write: Write, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    home = write(GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=rf"site\.toml: {message}") as caught:
        home.load()
    assert str(caught.value).startswith(str(home.config))
    assert "\n" not in str(caught.value)


def test_missing_or_unreadable_settings_name_the_file(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(ConfigError, match=r"site\.toml: cannot be read: No such file"):
        home.load()
    home.config.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        home.load()


def test_the_agreed_study_is_read_from_the_home(write: Write, study: Study) -> None:
    home = write(GOOD)
    with pytest.raises(ConfigError, match=r"study\.toml: cannot be read"):
        home.load_study(home.load())
    (home.path / "study.toml").write_text(render_study(study), encoding="utf-8")
    assert home.load_study(home.load()).hash == study.hash


def test_a_draft_of_a_study_is_refused(write: Write, study: Study) -> None:
    home = write(GOOD)
    fields = study.model_dump(mode="json")
    fields["cohort"]["sites"][1]["key"] = ""
    draft = render_study(Study.model_validate(fields))
    (home.path / "study.toml").write_text(draft, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"study\.toml: is a draft: a site of its roster has no key yet"):
        home.load_study(home.load())


def test_a_home_whose_socket_path_is_too_long_is_refused_before_it_is_bound() -> None:
    room = LONGEST_SOCKET_PATH - len("/node/agent.sock")
    longest = Path("/" + "x" * (room - 1))
    assert len(str(Home(longest).socket)) == LONGEST_SOCKET_PATH
    with pytest.raises(ConfigError, match="path is too long for a Unix socket; move it to a shorter one"):
        _ = Home(Path(str(longest) + "x")).socket
    with pytest.raises(ConfigError, match="too long"):  # bytes count, not letters
        _ = Home(Path("/" + "ü" * (room // 2 + 1))).socket


def test_the_node_is_to_lose_sight_of_a_database_as_of_what_names_it(write: Write) -> None:
    home = write(GOOD.replace("data.csv", "data.toml"))
    described = home.path / "data.toml"
    assert private_paths(home, home.load()) == [described, register_folder()]
    described.write_text('format = 1\nurl = "sqlite:///in/patients.db"\ntable = "patients"\n')
    with pytest.raises(ConfigError, match="can be read by others"):
        private_paths(home, home.load())
    described.chmod(0o600)
    database = home.path.resolve() / "in/patients.db"
    assert private_paths(home, home.load())[:3] == [described, register_folder(), database]


def test_the_register_lies_in_the_users_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert register_folder() == tmp_path / "synthfed" / "datasets"
    for said in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", said)
        assert register_folder() == Path.home() / ".local/state/synthfed/datasets"


def test_a_name_of_another_ledger_is_sixteen_digits(write: Write) -> None:
    assert write(GOOD).load().distinct_from == ()
    line = 'distinct_from = ["0123456789abcdef"]\n[ceiling]'
    assert write(GOOD.replace("[ceiling]", line)).load().distinct_from == ("0123456789abcdef",)
    with pytest.raises(ConfigError, match=r"distinct_from"):
        write(GOOD.replace("[ceiling]", 'distinct_from = ["x"]\n[ceiling]')).load()
