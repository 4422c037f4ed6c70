"""What mypy --strict and basedpyright accept and refuse: `typing_api.py` and `typing_refused.py`, both ways."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
EXPECTED = re.compile(r"# expect-error: (?P<mypy>[^|]+)\|(?P<basedpyright>.+)$")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        importlib.util.find_spec("mypy") is None or importlib.util.find_spec("basedpyright") is None,
        reason="the type checkers come with the extra `dev`",
    ),
]

Found = dict[str, dict[int, set[str]]]
"""File name -> line -> codes."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Copies of both files; in the one that is refused, the line that says so to `make check` is a comment only."""
    folder = tmp_path_factory.mktemp("typing")
    for name in ("typing_api.py", "typing_refused.py"):
        text = (TESTS / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace("# mypy: ignore-errors", "#"), encoding="utf-8")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def mypy_found(files: list[Path]) -> Found:
    """What mypy refuses, with the settings of `make check`."""
    arguments = [
        "--config-file",
        str(ROOT / "pyproject.toml"),
        "--no-error-summary",
        "--no-pretty",
        "--hide-error-context",
    ]
    done = _run("-m", "mypy", *arguments, *map(str, files))
    found: Found = defaultdict(lambda: defaultdict(set))
    for line in done.splitlines():
        if match := re.match(r"(?P<file>.+\.py):(?P<line>\d+):(?:\d+:)? error: .*\[(?P<code>[a-z-]+)\]$", line):
            found[Path(match["file"]).name][int(match["line"])].add(match["code"])
        else:
            assert ": note:" in line, done
    return found


@pytest.fixture(scope="module")
def basedpyright_found(files: list[Path]) -> Found:
    """What basedpyright refuses, with the settings of `make check`."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["basedpyright"]
    project = files[0].parent / "pyrightconfig.json"
    project.write_text(json.dumps({**config, "include": [file.name for file in files]}), encoding="utf-8")
    command = shutil.which("basedpyright", path=str(Path(sys.executable).parent)) or "basedpyright"
    arguments = ["--outputjson", "--pythonpath", sys.executable, "-p", str(project)]
    done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=200, check=False)
    found: Found = defaultdict(lambda: defaultdict(set))
    report: dict[str, Any] = json.loads(done.stdout)
    for problem in report["generalDiagnostics"]:
        line = problem["range"]["start"]["line"] + 1
        found[Path(problem["file"]).name][line].add(problem.get("rule", problem["message"]))
    return found


def _run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=200, check=False, cwd=ROOT
    )
    assert done.stderr == ""
    return done.stdout


def expected(checker: str) -> dict[int, set[str]]:
    """Line -> codes that this checker must give there."""
    lines = (TESTS / "typing_refused.py").read_text(encoding="utf-8").splitlines()
    marked = {number: EXPECTED.search(line) for number, line in enumerate(lines, 1)}
    return {number: set(match[checker].replace(",", " ").split()) for number, match in marked.items() if match}


@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_what_users_write_is_accepted_with_exactly_these_types(checker, request):
    found: Found = request.getfixturevalue(f"{checker}_found")
    assert dict(found["typing_api.py"]) == {}


@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_every_misuse_is_refused_and_nothing_else_is(checker, request):
    found: Found = request.getfixturevalue(f"{checker}_found")
    refused, wanted = dict(found["typing_refused.py"]), expected(checker)
    assert len(wanted) > 50
    assert {line: codes for line, codes in refused.items() if line not in wanted} == {}, "refused without a comment"
    assert {line: codes for line, codes in wanted.items() if line not in refused} == {}, "not refused"
    assert refused == wanted
