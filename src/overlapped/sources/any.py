"""Any source a user may give: told apart when the flow is written, made into a feed when it runs."""

from __future__ import annotations

import inspect
import io
import os
import stat
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.callables import kind_of
from overlapped._engine.failure import short
from overlapped.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.feed import Feed
    from overlapped._engine.scope import Scope

ON_THE_LOOP: Final[tuple[type, ...]] = (
    *(list, tuple, range, dict, set, frozenset, deque),
    *(type({}.keys()), type({}.values()), type({}.items())),
)
"""Types whose next item never waits. Anything else might, so it has a thread of its own."""


class Source:
    """Where the items of a flow come from."""

    __slots__ = ("_is_used", "_kind", "_run", "_value", "name")

    def __init__(self, value: object) -> None:
        self._value: Any = value
        self._kind = _kind_of_source(value)
        self._is_used = False  # it has been pulled, or was about to be
        self._run: weakref.ref[Scope] | None = None  # the last one that was to pull it
        self.name = _name(value)

    def __reduce__(self) -> tuple[type[Source], tuple[Any]]:
        """What has run lately is no part of a copy."""
        return Source, (self._value,)

    @property
    def is_one_shot(self) -> bool:
        """True for an iterator: it can be used by one run only."""
        is_iterated = self._kind in ("iterable", "async")
        return is_iterated and (hasattr(self._value, "__next__") or hasattr(self._value, "__anext__"))

    def check_usable(self) -> None:
        """Refuse to run over an iterator again.

        Raises:
            UsageError: an earlier run has used it, another one is to use it, or it has come to its end.
        """
        if not self.is_one_shot:
            return
        run = None if self._run is None else self._run()
        if self._is_used or _is_used_up(self._value) or (run is not None and not run.closing):
            raise UsageError(
                f"flow({self.name}): this {type(self._value).__name__} has been used already and cannot start "
                f"again; give a function that makes it: write flow(fn)"
            )

    @property
    def length(self) -> int | None:
        """How many items there are, where that is known without a look at them."""
        return len(self._value) if self._kind == "container" else None

    def feed(self, scope: Scope) -> Feed:
        """The feed of one run."""
        from overlapped._engine.pulled import LoopFeed, ThreadFeed
        from overlapped.sources.made import AsyncFeed, FunctionFeed

        self.check_usable()
        self._run = weakref.ref(scope)
        value = self._value
        if self._kind in ("container", "file"):
            return LoopFeed(value, self.name, is_free=self._kind == "container")
        if self._kind == "async":
            return AsyncFeed(self._begun, self.name, scope)
        if self._kind == "async function":
            return AsyncFeed(value, self.name, scope)
        if self._kind == "function":
            return FunctionFeed(value, self.name, scope)
        return ThreadFeed(self._begun, self.name, scope, closes=self.is_one_shot)

    def _begun(self) -> Any:
        self._is_used = True
        return self._value

    def explain(self) -> str:
        """How it will be pulled."""
        how = {
            "container": "pulled on the loop",
            "file": "pulled on the loop, not closed",
            "stream": "read in a thread of its own, not closed",
            "async": "iterated by a task of its own",
            "async function": "called by a task of its own, which iterates what is async",
            "function": "called and iterated in a thread of its own",
            "iterable": "iterated in a thread of its own",
        }
        return f"source {self.name}: {how[self._kind]}"


def _kind_of_source(value: object) -> str:
    name = _name(value)
    if isinstance(value, (str, bytes, bytearray)):
        shown = short(value, 40)
        raise UsageError(
            f"flow({shown}): a {type(value).__name__} would be taken apart; write flow([{shown}]), "
            f"or flow(open({shown})) for the lines of a file"
        )
    if inspect.iscoroutine(value):
        value.close()
        raise UsageError(f"flow({name}(...)): a coroutine object is not iterable; write flow({name})")
    if isinstance(value, os.PathLike):
        raise UsageError(f"flow({name}): a path is not iterable; write flow(open(path)) for its lines")
    methods = type(value) if inspect.isclass(value) else value  # an Enum can be iterated, unlike other classes
    if hasattr(methods, "__aiter__"):
        _refuse_used_up(value, name)
        return "async"
    if isinstance(value, io.IOBase):
        return "file" if _never_waits(value) else "stream"
    if type(value) in ON_THE_LOOP:
        return "container"
    if hasattr(methods, "__iter__") or hasattr(methods, "__getitem__"):
        _refuse_used_up(value, name)
        return "iterable"
    if not callable(value):
        raise UsageError(
            f"flow({short(value, 40)}): {type(value).__name__} is neither iterable nor a function "
            "that returns an iterable"
        )
    _refuse_parameters(value, name)
    return "async function" if kind_of(value) in ("coroutine", "async_generator", "tornado") else "function"


def _never_waits(file: io.IOBase) -> bool:
    """True for a regular file, and for one in memory; a pipe, a socket or a terminal may wait for ever."""
    if isinstance(file, (io.StringIO, io.BytesIO)):
        return True
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except Exception:  # noqa: BLE001 - it is closed, has no descriptor, or is of a class of the user's own
        return False


def _refuse_parameters(fn: Callable[..., object], name: str) -> None:
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (ValueError, TypeError):
        return
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if needed:
        given = ", ".join(needed)
        raise UsageError(
            f"flow({name}): {name} needs {given}; call it: write flow({name}({given})), "
            f"or flow(functools.partial({name}, {given})) to run the flow more than once"
        )


def _is_used_up(value: object) -> bool:
    if inspect.isgenerator(value):
        return inspect.getgeneratorstate(value) == inspect.GEN_CLOSED
    if inspect.isasyncgen(value):
        return value.ag_frame is None
    return False


def _refuse_used_up(value: object, name: str) -> None:
    if _is_used_up(value):
        raise UsageError(f"flow({name}): this generator has come to its end already; write flow({name}(...)) anew")


def _name(value: object) -> str:
    name = getattr(value, "__name__", None)
    return name if isinstance(name, str) else type(value).__name__
