"""Which models there are: one for each file in `models/`, by its file name; a new one needs no other edit."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overlapped.compare import models
from overlapped.compare.base import About, ComparisonError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType
    from typing import Any

ORDER = ("blocking", "polling", "readiness", "completion", "generators", "threads", "gevent", "tornado")
"""The order of the story: from the kernel upwards; the others follow by name, overlapped last."""


@dataclass(frozen=True, slots=True)
class Model:
    """One I/O model.

    Attributes:
        name: its file's name, without the underscore that keeps it apart from a package.
        about: what it tells about itself.
        module: its file.
    """

    name: str
    about: About
    module: ModuleType

    def does(self, workload: str) -> Callable[[Any], None] | None:
        """Its function for a workload, if it has one."""
        found: Callable[[Any], None] | None = getattr(self.module, workload, None)
        return found

    def lines(self, workload: str) -> int:
        """Lines of code that a reader must understand: no docstrings, comments, imports or empty lines."""
        others = {name for name in WORKLOADS if name != workload}
        return code_lines(inspect.getsource(self.module), without=others)


WORKLOADS = ("crawl", "files")
"""What models can do: the names of their functions."""


def all_models() -> list[Model]:
    """Every model, in the order of the story."""
    found = [_load(entry.name) for entry in pkgutil.iter_modules(models.__path__)]
    return sorted(found, key=_place)


def chosen_models(names: Sequence[str], workload: str) -> list[Model]:
    """The models with these names (none: all that know the workload), in the order of the story.

    Raises:
        ComparisonError: there is no model of that name, or it does not do that.
    """
    there = {model.name: model for model in all_models()}
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ComparisonError(f"there is no model {name!r}; {hint}there are {', '.join(there)}", is_usage=True)
        if there[name].does(workload) is None:
            able = ", ".join(model.name for model in there.values() if model.does(workload))
            raise ComparisonError(f"the model {name!r} does no {workload}; those that do: {able}", is_usage=True)
    return [model for model in there.values() if model.does(workload) and (not names or model.name in names)]


def code_lines(source: str, *, without: set[str] | frozenset[str] = frozenset()) -> int:
    """How many lines hold code, without the functions named `without` and all that no reader reads as code."""
    tree = ast.parse(source)
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                skipped.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
        if isinstance(node, ast.stmt) and _is_aside(node, without):
            skipped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(source.splitlines(), 1)
    return sum(1 for number, line in lines if number not in skipped and line.strip() and line.strip()[0] != "#")


def _is_aside(node: ast.stmt, without: set[str] | frozenset[str]) -> bool:
    if isinstance(node, ast.FunctionDef):
        return any(node.name == name or node.name.startswith(f"{name}_") for name in without)
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) == "ABOUT"
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, ast.Import | ast.ImportFrom)


def _load(name: str) -> Model:
    module = importlib.import_module(f"{models.__name__}.{name}")
    return Model(name.rstrip("_"), module.ABOUT, module)


def _place(model: Model) -> tuple[bool, int, str]:
    at = ORDER.index(model.name) if model.name in ORDER else len(ORDER)
    return (model.name == "overlapped", at, model.name)
