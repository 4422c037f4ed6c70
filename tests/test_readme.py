"""Every Python block of the README and of docs/ runs, in order, in a process of its own for each file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_in_place(page: str) -> str:
    """The page's code with every other line empty, so that a traceback's line is the page's line."""
    lines = [""] * page.count("\n")
    for block in BLOCK.finditer(page):
        first = page.count("\n", 0, block.start(1))
        for number, line in enumerate(block[1].splitlines(), first):
            lines[number] = line
    return "\n".join(lines).rstrip() + "\n"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "```python\n" in page.read_text(encoding="utf-8")],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_every_block_runs_as_written(page, tmp_path):
    script = tmp_path / (page.name + ".py")
    script.write_text(blocks_in_place(page.read_text(encoding="utf-8")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, f"{page.name}, line numbers as in the page:\n{done.stdout}\n{done.stderr}"
    assert not done.stderr


def test_every_python_example_is_written_as_a_python_block():
    for page in PAGES:
        fences = re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(fences) <= {"", "python", "sh", "text"}, page.name


def test_blocks_keep_their_line_numbers():
    page = "one\n```python\na = 1\n```\nfive\n```python\nb = 2\nc = 3\n```\n"
    assert blocks_in_place(page) == "\n\na = 1\n\n\n\nb = 2\nc = 3\n"
