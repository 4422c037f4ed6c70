"""The package as a whole: its public names, its version, and what importing it costs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "overlapped"
# Where a module-level import of a third-party package is fine: nothing of the core imports these rooms.
MODULE_LEVEL = {"cli": {"click"}, "cli/jobs": {"aiohttp"}}


def in_fresh_process(code: str) -> Any:
    """What `code` prints as JSON, in a Python that has imported nothing yet."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import json, sys\n" + code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_all_names_exactly_what_dir_shows():
    shown, declared, missing = in_fresh_process("""
import types, overlapped
shown = [name for name in dir(overlapped) if not name.startswith("_")]
shown = [name for name in shown if not isinstance(getattr(overlapped, name), types.ModuleType)]
missing = [name for name in overlapped.__all__ if not hasattr(overlapped, name)]
print(json.dumps([shown, list(overlapped.__all__), missing]))
""")
    assert missing == []
    assert sorted(shown) == sorted(declared)
    assert len(set(declared)) == len(declared)


def test_star_import_gives_every_public_name():
    declared, given = in_fresh_process("""
import overlapped
names = {}
exec("from overlapped import *", names)
print(json.dumps([list(overlapped.__all__), list(names)]))
""")
    assert set(declared) <= set(given)


def test_an_unknown_name_is_an_attribute_error():
    import overlapped

    name = "no_such_name"
    with pytest.raises(AttributeError, match=name):
        getattr(overlapped, name)


def test_importing_brings_in_the_standard_library_only():
    brought = in_fresh_process("""
before = set(sys.modules)
import overlapped
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
""")
    assert set(brought) - sys.stdlib_module_names == {"overlapped"}


def test_importing_loads_no_optional_package_and_no_slow_module():
    loaded = in_fresh_process("""
import overlapped
print(json.dumps(list(sys.modules)))
""")
    optional = {"aiohttp", "tornado", "click", "rich", "uvloop", "gevent"}
    slow = {"importlib.metadata", "sqlite3", "multiprocessing"}
    assert not (optional | slow) & set(loaded)


def test_importing_makes_at_most_eight_dataclasses():
    made = in_fresh_process("""
import overlapped
modules = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] == "overlapped"]
classes = {value for module in modules for value in vars(module).values() if isinstance(value, type)}
ours = {cls for cls in classes if cls.__module__.partition(".")[0] == "overlapped"}
print(json.dumps(sorted(cls.__qualname__ for cls in ours if "__dataclass_fields__" in vars(cls))))
""")
    assert len(made) <= 8, made


def test_the_version_stands_in_one_place():
    import overlapped

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    source = ROOT / project["tool"]["hatch"]["version"]["path"]
    (version,) = re.findall(r'^__version__ = "(.+)"$', source.read_text(encoding="utf-8"), re.MULTILINE)
    assert "version" in project["project"]["dynamic"]
    assert overlapped.__version__ == version


def imports_at_module_level(tree: ast.Module) -> set[str]:
    """Top-level package of every import that runs when the module is imported."""
    found: set[str] = set()
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("path", sorted(SRC.glob("**/*.py")), ids=lambda path: str(path.relative_to(SRC)))
def test_third_party_imports_stand_inside_functions(path):
    room = path.parent.relative_to(SRC).as_posix()
    third_party = imports_at_module_level(ast.parse(path.read_text(encoding="utf-8")))
    third_party -= sys.stdlib_module_names | {"overlapped"}
    assert third_party <= MODULE_LEVEL.get(room, set())


def test_every_extra_names_its_own_or_other_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dependencies"] == []
    for wanted in re.findall(r"overlapped\[([\w,]+)\]", str(project["optional-dependencies"])):
        assert set(wanted.split(",")) <= set(project["optional-dependencies"])
