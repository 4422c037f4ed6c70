"""Every example in a docstring runs and shows what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import overlapped

SRC = Path(overlapped.__file__).parent
FINDER = doctest.DocTestFinder()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SRC.parent).with_suffix("").parts).removesuffix(".__init__")


WITH_EXAMPLES = sorted(module_name(path) for path in SRC.glob("**/*.py") if ">>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write a file
    said: list[str] = []
    runner = doctest.DocTestRunner()
    module = importlib.import_module(name)
    for test in FINDER.find(module, name):
        runner.run(test, out=said.append)
    assert runner.tries > 0, f"{name}: its examples stand where doctest does not look"
    assert not said, "".join(said)


def test_the_front_page_of_the_library_has_examples():
    assert {"overlapped.flow", "overlapped.retry", "overlapped.rate", "overlapped.testing.clock"} <= set(WITH_EXAMPLES)
