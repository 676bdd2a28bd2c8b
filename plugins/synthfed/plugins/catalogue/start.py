"""A new plugin's package: pyproject, a small working model, its test, a README.

Never writes into a folder that is there already, and never takes a name that an installed plugin has.
"""

import keyword
import re
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

from synthfed.protocols.errors import ConfigError

from ..distributions import fitting_range
from ..registry import GROUPS, installed

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST: Final = 32
_FILES: Final = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "src/{package}/__init__.py": "init.py.txt",
    "tests/test_model.py": "test_model.py.txt",
}
"""Where a file of the new package goes, and the text that it is made from."""


def start(name: str, folder: Path) -> Path:
    """Write a package for a model plugin of that name and return its folder, ``folder/synthfed-NAME``.

    Raises:
        ConfigError: the name is not fit or taken, or the folder is there already or cannot be written.
    """
    _check_name(name)
    words = {
        "name": name,
        "distribution": f"synthfed-{name}",
        "package": f"synthfed_{name.replace('-', '_')}",
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        "range": fitting_range(),
    }
    target = folder / words["distribution"]
    try:
        target.mkdir(parents=True)
        for place, source in _FILES.items():
            _write(target / place.format(**words), Template(_text(source)).substitute(words))
        model = _text("model.py").replace("TemplateModel", words["class_name"]).replace("template-name", name)
        _write(target / "src" / words["package"] / "model.py", model)
    except FileExistsError:
        raise ConfigError("exists already; choose another name or folder", where=str(target)) from None
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}; choose another folder", where=str(target)) from None
    return target


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise ConfigError(
            f"{name!r} is no name for a plugin; use lower-case letters, digits and inner hyphens, a letter first, "
            f"at most {_LONGEST} in all"
        )
    class_name = "".join(part.capitalize() for part in name.split("-"))
    if keyword.iskeyword(class_name) or class_name in _taken_words():
        raise ConfigError(f"{name!r} would give a class of a name that the file uses already; choose another")
    for group in GROUPS:
        for plugin in installed(group):
            if plugin.name == name:
                raise ConfigError(f"{name!r} is a plugin of {plugin.distribution} already; choose another name")


def _taken_words() -> frozenset[str]:
    return frozenset(re.findall(r"\b[A-Z]\w*", _text("model.py"))) - {"TemplateModel"}


def _text(name: str) -> str:
    return (resources.files(__package__) / "template" / name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
