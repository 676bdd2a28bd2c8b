"""The examples in the docstrings of the kernel are true."""

import doctest
import importlib
import pkgutil

import pytest

from synthfed import protocols

MODULES = [each.name for each in pkgutil.walk_packages(protocols.__path__, f"{protocols.__name__}.")]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_kernel_has_examples_to_check() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [case for name in MODULES for case in finder.find(importlib.import_module(name)) if case.examples]
    assert len(examples) >= 4
