"""How functions, items, results and exceptions travel to another process and back.

Functions go as `module:qualname`, which is how pickle does it; those that have no such name (lambdas, functions
inside functions, what a notebook defined) go by value if cloudpickle is installed. `__main__` is imported by a
host when it is first asked for something, under the name `__mp_main__`, as multiprocessing does; a host on another
machine has no such file, so what stands there goes by value too.
"""

from __future__ import annotations

import importlib
import os.path
import pickle
import runpy
import sys
import traceback
from types import ModuleType
from typing import Any, Final, NamedTuple

from overlapped._engine.failure import set_cause, short
from overlapped._engine.frames import PROTOCOL
from overlapped.errors import RemoteError, UsageError

AS_IMPORTED: Final = "__mp_main__"

Origin = tuple[str, str]
"""Where `__main__` comes from: ("module", name) or ("path", what `runpy.run_path` takes); ("", "") if it cannot be
imported."""


class Packing(NamedTuple):
    """How what has no name in another process gets there.

    Attributes:
        by_value: the module that packs it. Both ends use the same one, or a class would come back as another class.
        has_main: hosts can import `__main__`, wherever it has a file.
    """

    by_value: str = "cloudpickle"
    has_main: bool = True

    @property
    def origin(self) -> Origin:
        """Where hosts find `__main__`."""
        return main_origin() if self.has_main else ("", "")


BY_NAME: Final = Packing()


class PackedError(NamedTuple):
    """An exception that may be unreadable where it arrives, and its text, which is not."""

    blob: bytes
    brief: str
    text: str


# -- functions and values ------------------------------------------------------------------------------------


def pack(value: object, packing: Packing = BY_NAME) -> bytes:
    """`value` as bytes, by value if pickle cannot and what does that is installed.

    Raises:
        Exception: whatever pickle raises for what cannot travel.
    """
    try:
        blob = pickle.dumps(value, PROTOCOL)
    except Exception:  # what it raises depends on the object
        by_value = _by_value(value, packing)
        if by_value is None:
            raise
        return by_value
    if b"__main__" in blob and packing.origin == ("", ""):
        return _by_value(value, packing) or blob
    return blob


def _by_value(value: object, packing: Packing) -> bytes | None:
    try:
        packs: Any = importlib.import_module(packing.by_value)
    except ImportError:
        return None
    return packs.dumps(value, PROTOCOL)  # type: ignore[no-any-return]  # they have no types


def pack_function(fn: object, at: str, name: str, packing: Packing = BY_NAME) -> bytes:
    """A function of the user's as bytes.

    Raises:
        UsageError: it cannot travel; the message shows what to write instead.
    """
    try:
        blob = pack(fn, packing)
    except Exception as error:
        raise UsageError(
            f"{at}: {name} cannot be sent to another process ({short(error, 200)}); "
            f"define it with def at the top of a module, or install cloudpickle"
        ) from error
    if b"__main__" in blob and packing.origin == ("", "") and _by_value(None, packing) is None:
        raise UsageError(
            f"{at}: {name} stands in a main module that has no file, where no other process can import it; "
            f"write it into a module, or install cloudpickle"
        )
    return blob


# -- exceptions ----------------------------------------------------------------------------------------------


def pack_error(error: BaseException, packing: Packing = BY_NAME) -> PackedError:
    """An exception, with the text of its traceback. Bytes that cannot be read back are left out."""
    text = "".join(traceback.format_exception(error))
    brief = short(error)
    # Left to itself, pickle has __init__ make the message again, of the one that it has made.
    args = error.args if type(error).__reduce__ is BaseException.__reduce__ else None
    try:
        blob = pack((error, args), packing)
        copy, _ = pickle.loads(blob)  # noqa: S301 - what was just made
        if type(copy) is not type(error):
            blob = b""
    except Exception:  # noqa: BLE001 - a class with an __init__ of its own, or something in it that cannot travel
        blob = b""
    return PackedError(blob, brief, text)


def unpack_error(packed: PackedError, where: str) -> BaseException:
    """The exception itself, caused by a RemoteError with its traceback; that alone if it cannot be read."""
    told = RemoteError(f"{packed.brief}, raised in {where}\n{packed.text.rstrip()}", text=packed.text)
    if not packed.blob:
        return told
    try:
        error, args = pickle.loads(packed.blob)  # noqa: S301 - a private socket to a process of our own
        if args is not None:
            error.args = args
    except Exception:  # noqa: BLE001 - as in `pack_error`
        return told
    if not isinstance(error, BaseException):
        return told
    set_cause(error, told)
    return error


# -- the main module -----------------------------------------------------------------------------------------


def main_origin() -> Origin:
    """Where another process finds `__main__`."""
    main = sys.modules.get("__main__")
    if isinstance(main, LazyMain):
        return main.origin
    spec = getattr(main, "__spec__", None)
    path = getattr(main, "__file__", None)
    if spec is not None and spec.name == "__main__" and path:  # a folder or an archive is run, by its path
        return "path", os.path.abspath(os.path.dirname(path))
    if spec is not None and spec.name:
        return "module", spec.name
    if isinstance(path, str) and os.path.isfile(path):
        return "path", os.path.abspath(path)
    return "", ""


def know_main() -> None:
    """Let what a host took from `__main__` be read here, where that module has its own name."""
    sys.modules.setdefault(AS_IMPORTED, sys.modules["__main__"])


def refuse_while_main_is_imported() -> None:
    """Refuse to start hosts from a main module that a host is importing: each of them would do the same.

    Raises:
        UsageError: with the line to write.
    """
    main = sys.modules.get("__main__")
    if isinstance(main, LazyMain) and main.is_importing:
        raise UsageError(
            "the main module starts a run with processes whenever it is imported, and its processes import it; "
            'put the run under  if __name__ == "__main__":'
        )


class LazyMain(ModuleType):
    """`__main__` of a host: imported when something of it is asked for, since importing a script may do much."""

    origin: Origin
    is_importing: bool

    def __init__(self, origin: Origin) -> None:
        super().__init__("__main__")
        self.origin = origin
        self.is_importing = False
        if origin[0] == "path":
            self.__file__ = origin[1]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self.is_importing or not self.origin[0]:
            raise AttributeError(f"module '__main__' has no attribute {name!r}")
        kind, where = self.origin
        self.is_importing = True
        try:
            if kind == "module":
                made = runpy.run_module(where, run_name=AS_IMPORTED, alter_sys=True)
            else:
                made = runpy.run_path(where, run_name=AS_IMPORTED)
        finally:
            self.is_importing = False
        module = ModuleType(AS_IMPORTED)
        module.__dict__.update(made)
        vars(self).update({key: value for key, value in made.items() if not key.startswith("__")})
        sys.modules[AS_IMPORTED] = module
        return getattr(module, name)
