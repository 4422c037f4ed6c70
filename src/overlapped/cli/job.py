"""JOB.py[:flow]: the file is run as a module and its flow is found, or the message says how to name it."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import os
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overlapped._engine.parcels import AS_IMPORTED
from overlapped.cli.say import ExitCode, Problem, traceback_text, users_place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

    from overlapped import Flow

SHOWN = 8
"""Names listed in a message; more would hide the sentence."""


class _Script(SourceFileLoader):
    """Loads a module as Python runs a script: without writing `__pycache__` beside it."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """No times to compare a cached file with, hence no cached file."""
        raise OSError


def load_job(target: str, args: Sequence[str]) -> Flow[Any]:
    """Run the file of `target` with `sys.argv` = file + `args`, and return its flow.

    Raises:
        Problem: there is no such file or flow, or the file's own code raised.
    """
    path, name = _split(target)
    module = _run_file(path, args)
    return find_flow(module, path.name, name)


def _split(target: str) -> tuple[Path, str | None]:
    """The file and the flow's name; a file whose own name holds a colon is taken as it is."""
    head, colon, tail = target.rpartition(":")
    if colon and tail.isidentifier() and not os.path.exists(target):
        path, name = Path(head), tail
    else:
        path, name = Path(target), None
    if os.path.isdir(path):
        raise Problem(f"{path}: is a folder, not a Python file")
    if not os.path.exists(path):  # unlike Path.exists, it takes a name that is too long
        near = _meant(path)
        flow = f":{name}" if name else ""
        raise Problem(f"{path}: no such file" + (f". Did you mean '{near}{flow}'?" if near else ""))
    return path, name


def _meant(path: Path) -> Path | None:
    """The file that there is instead: with its suffix, that of a dotted module, or of a similar name."""
    for other in (path.with_name(f"{path.name}.py"), Path(str(path).replace(".", "/") + ".py")):
        if path.name and os.path.isfile(other):
            return other
    near = difflib.get_close_matches(path.name, [other.name for other in _siblings(path)], n=1)
    return path.with_name(near[0]) if near else None


def _siblings(path: Path) -> list[Path]:
    try:
        return sorted(path.parent.glob("*.py"))[:1000]
    except OSError:
        return []


def _run_file(path: Path, args: Sequence[str]) -> ModuleType:
    """Run a file as a module: `__name__` is not "__main__", its folder is importable."""
    stem = path.stem
    is_importable = stem.isidentifier() and path.resolve().name == f"{stem}.py"
    # a job named like a module that is already in use must not take its place
    name = stem if is_importable and stem not in sys.modules else AS_IMPORTED
    spec = importlib.util.spec_from_loader(name, _Script(name, str(path.absolute())), origin=str(path))
    if spec is None:
        raise Problem(f"{path}: Python cannot load it as a module")
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    sys.argv = [str(path), *args]
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[name] = module
    if name == AS_IMPORTED:  # processes find it as they find the script of `python job.py`
        module.__spec__ = None
        sys.modules["__main__"] = module
    call_users(path.name, lambda: spec.loader.exec_module(module) if spec.loader else None)
    return module


def call_users(label: str, call: Callable[[], Any]) -> Any:
    """Call the user's code before anything runs; what it raises becomes a `Problem` with their frames."""
    from overlapped import UsageError

    try:
        return call()
    except UsageError as error:
        raise Problem(f"{users_place(error) or label}: {error}") from error
    except SyntaxError as error:
        raise Problem(f"{users_place(error) or label}: {error.msg}", traceback=traceback_text(error)) from error
    except SystemExit as error:
        code, message = left_with(error, label, "no flow was run", text_code=ExitCode.USAGE)
        raise Problem(message, code) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        where = users_place(error) or label
        raise Problem(
            f"{where}: {type(error).__name__} while the flow was written; nothing was started",
            ExitCode.FAILED,
            traceback=traceback_text(error),
        ) from error


def left_with(error: SystemExit, place: str, then: str, *, text_code: int) -> tuple[int, str]:
    """The code and the sentence for their sys.exit: its number is the code, as a shell sees it; its text is told."""
    if error.code is None or isinstance(error.code, int):
        shown = "" if error.code is None else error.code
        return int(error.code or 0) & 0xFF, f"{place}: called sys.exit({shown}); {then}"
    return text_code, str(error.code)


def find_flow(module: ModuleType, label: str, name: str | None) -> Flow[Any]:
    """The flow called `name`, or the only one there is."""
    found = _candidates(module)
    if name is None:
        name = _only(found, label)
    elif name not in found and not hasattr(module, name):
        raise Problem(f"{label} has no flow named '{name}'. {_suggest(name, found)}")
    value = getattr(module, name)
    return _flow_of(value, label, name, found)


def _candidates(module: ModuleType) -> dict[str, object]:
    """What could be the flow: every Flow, and this file's own functions declared or named as one."""
    from overlapped import Flow

    flows: dict[str, object] = {}
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        own = inspect.isfunction(value) and value.__module__ == module.__name__
        if isinstance(value, Flow) or (own and (name == "flow" or _returns_flow(value))):
            flows[name] = value
    return flows


def _returns_flow(function: Any) -> bool:
    """Whether a function without parameters to fill says that it returns a Flow."""
    declared = function.__annotations__.get("return")
    text = declared if isinstance(declared, str) else getattr(declared, "__qualname__", str(declared))
    return text.split("[")[0].split(".")[-1] == "Flow" and not _needed(function)


def _needed(function: Any) -> list[str]:
    """Parameters that a call without arguments would miss."""
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def _only(found: dict[str, object], label: str) -> str:
    if "flow" in found:
        return "flow"
    if not found:
        raise Problem(f"{label} has no flow. Write one at the top level: flow = overlapped.flow(source).map(...)")
    if len({id(value) for value in found.values()}) > 1:
        raise Problem(
            f"{label} has {len(found)} flows. Name one: overlapped run {label}:{next(iter(found))} "
            f"(found: {_listed(found)})"
        )
    return next(iter(found))


def _suggest(name: str, found: dict[str, object]) -> str:
    near = difflib.get_close_matches(name, found, n=1)
    did_you_mean = f"Did you mean '{near[0]}'? " if near else ""
    return f"{did_you_mean}(found: {_listed(found)})"


def _listed(found: dict[str, object]) -> str:
    names = list(found)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "") or "none"


def _flow_of(value: object, label: str, name: str, found: dict[str, object]) -> Flow[Any]:
    """The flow itself, or what the function that makes it returns."""
    from overlapped import Flow

    if isinstance(value, Flow):
        return value
    if not inspect.isfunction(value) or inspect.iscoroutinefunction(value) or inspect.isgeneratorfunction(value):
        raise Problem(f"{label}:{name} is of type {type(value).__name__}, not a flow. {_suggest(name, found)}")
    if value.__module__.startswith("overlapped."):
        raise Problem(f"{label}:{name} is overlapped's own function, not a flow. {_suggest(name, found)}")
    if needed := _needed(value):
        raise Problem(f"{label}:{name} needs {', '.join(needed)}: a function that makes the flow takes no arguments")
    made = call_users(label, value)
    if not isinstance(made, Flow):
        raise Problem(f"{label}:{name} returned a value of type {type(made).__name__}, not a flow")
    return made
