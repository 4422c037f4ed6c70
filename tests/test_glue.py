"""The example that mixes every lane: all pages go through all of it, and what is missing is said."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

GLUE = Path(__file__).parent.parent / "examples" / "glue.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="hosts need socket pairs that a process inherits"),
]


def run(*options: str) -> str:
    done = subprocess.run(
        [sys.executable, str(GLUE), "--items", "120", *options], capture_output=True, text=True, timeout=55, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def last_row(said: str) -> dict[str, object]:
    found = re.search(r"^120 files, 120 rows; the last one: (\{.*\})$", said, re.MULTILINE)
    assert found, said
    row: dict[str, object] = ast.literal_eval(found[1])
    return row


def test_every_kind_of_code_runs_in_one_flow_on_real_services():
    pytest.importorskip("psycopg")
    pytest.importorskip("gevent")
    said = run()
    row = last_row(said)
    assert (row["number"], row["stars"], row["owner"], row["kept_in"]) == (119, 4, "owner 0", "119.html")
    assert len(str(row["digest"])) == 64
    pages = [f"<h1>Page {n}</h1>" + "<p>text</p>" * 100 for n in range(120)]
    assert row["total_bytes"] == sum(map(len, pages))
    stages = ["fetch", "add_stars", "add_owner", "keep", "add_digest", "as_row", "Jsonl"]
    if "PostgreSQL is left out" not in said:
        stages.append("store")
    for stage in stages:
        assert re.search(rf"^(where)? +{stage}", said, re.MULTILINE), f"{stage} is not in the account:\n{said}"


def test_without_postgresql_it_says_so_and_does_the_rest():
    said = run("--dsn", "postgresql://nobody@127.0.0.1:1/none")
    assert re.search(r"^PostgreSQL is left out: .*(refused|failed)", said, re.MULTILINE), said
    assert last_row(said)["number"] == 119
    assert "store" not in said
