"""Kinds of functions: told when the flow is written, so that a mix-up fails there and not late.

Rules and prior art: `inspect` tells most kinds; it does not look into a `functools.partial` of a
callable object nor at `type(obj).__call__`, and it takes a cached async function for a plain one.
"""

from __future__ import annotations

import asyncio.coroutines
import functools
import inspect
import os.path
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import (
    AsyncGeneratorType,
    CodeType,
    CoroutineType,
    GeneratorType,
    MethodType,
    NoneType,
)
from typing import Any, Literal, NoReturn

from overlapped.errors import UsageError

Kind = Literal["coroutine", "tornado", "generator", "async_generator", "plain"]
GeneratorShape = Literal["transducer", "producer", "async_producer"]

_METHODS = frozenset({"map", "flat_map", "filter", "tap", "through"})
_MAX_WRAPPERS = 32  # partials and methods inside each other; objects may pretend to wrap themselves
# asyncio's own mark on 3.11 (async_lru, asgiref set it); inspect's mark replaced it in 3.12.
_ASYNCIO_MARK: object = getattr(asyncio.coroutines, "_is_coroutine", object())
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# What is neither awaitable nor a generator can be told in 0.05 us for these.
PLAIN_TYPES = frozenset({NoneType, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset})


@dataclass(frozen=True, slots=True)
class Described:
    """What can be known of a function before it is called.

    Attributes:
        kind: what calling it gives: a coroutine (or another awaitable), a Tornado future,
            a generator, an async generator, or a value ("plain", which the first call confirms).
        name: short name for people; a lambda is told by its place: "lambda crawl.py:12".
        where: "crawl.py:12", or "" for what is not written in Python.
        wants: parameters that can be passed by name beyond the item: candidates for resources.
        required: those parameters beyond the item that have no default. One that is in
            `required` but not in `wants` is positional-only and can never be filled.
        accepts_any: True if it takes `**kwargs`.
    """

    kind: Kind
    name: str
    where: str
    wants: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    accepts_any: bool = False


def describe(fn: object, verb: str) -> Described:
    """Tell what `fn` is, for the stage (or option) `verb` that it was given to.

    Raises:
        UsageError: `fn` cannot be used there; the message shows the line to write instead.
    """
    if not callable(fn):
        _refuse_non_callable(fn, verb)
    kind, name = kind_of(fn), _name_of(fn)
    _refuse_cached(fn, kind, name, verb)
    if kind in ("generator", "async_generator") and verb != "flat_map":
        _refuse_generator(kind, name, verb)
    signature = _signature_of(fn)
    if signature is None:
        return Described(kind, name, _where_of(fn))
    if not _takes_positional(signature):
        raise UsageError(
            f"{verb}({name}): {name} takes no positional argument, but is called with the item; "
            f"write {_def_line(kind, name, 'item')}"
        )
    extra = _beyond_the_item(signature)
    return Described(
        kind,
        name,
        _where_of(fn),
        wants=tuple(p.name for p in extra if p.kind is not p.POSITIONAL_ONLY),
        required=tuple(p.name for p in extra if p.default is p.empty),
        accepts_any=any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()),
    )


def describe_generator(fn: object) -> GeneratorShape:
    """Tell how `.through(fn)` drives the generator function `fn`.

    "transducer": no required parameter, `x = yield y`. "producer" and "async_producer": one
    required parameter, the iterable of items. How the value of `yield` is used is not looked at:
    that would need bytecode.

    Raises:
        UsageError: `fn` is neither; the message shows the line to write instead.
    """
    if not callable(fn):
        _refuse_non_callable(fn, "through")
    kind, name = kind_of(fn), _name_of(fn)
    _refuse_cached(fn, kind, name, "through")
    if kind in ("coroutine", "tornado"):
        raise UsageError(f"through({name}): {name} is a coroutine function; write .map({name})")
    if kind == "plain":
        raise UsageError(
            f"through({name}): {name} is not a generator function; write .map({name}), or pass "
            "the generator function itself (functools.partial adds arguments)"
        )
    signature = _signature_of(fn)
    required = [] if signature is None else _required(signature)
    positional = [p for p in required if p.kind in _POSITIONAL]
    if len(required) > len(positional) or len(positional) > 1:
        surplus = [p.name for p in required if p not in positional[:1]]
        given = ", ".join(f"{n}=..." for n in surplus)
        raise UsageError(
            f"through({name}): nothing fills the parameters {', '.join(surplus)} of {name}; "
            f"write .through(functools.partial({name}, {given}))"
        )
    if positional:
        return "producer" if kind == "generator" else "async_producer"
    if kind == "async_generator":
        raise UsageError(
            f"through({name}): {name} has no parameter for the items; "
            f"write async def {_identifier(name)}(items): async for item in items: yield ..."
        )
    return "transducer"


def kind_of(fn: Callable[..., object]) -> Kind:
    """The kind of a callable, by looking at it only (about 1-2 us)."""
    core = _core(fn)
    kind = _function_kind(core)
    if kind != "plain":
        return kind
    if inspect.isclass(core):
        return "coroutine" if hasattr(core, "__await__") else "plain"
    return _function_kind(_core(getattr(type(core), "__call__", None)))  # noqa: B004 - the object behind it is wanted


def is_plain(fn: object) -> bool:
    """True for a function whose call gives a value, as far as that can be told before it."""
    return callable(fn) and kind_of(fn) == "plain"


def is_awaitable(value: object) -> bool:
    """True if `value` can be awaited; 0.05 us for the values that plain functions usually return."""
    if type(value) in PLAIN_TYPES:
        return False
    return issubclass(type(value), Awaitable) or _is_iterable_coroutine(value)


def is_for_loop(value: object, *, loop_first: bool = False) -> bool:
    """True if what a `flat_map` function returned is to be awaited, or iterated on a loop.

    What can be iterated both ways is so only `loop_first`: where a loop is at hand.
    """
    if type(value) in PLAIN_TYPES:
        return False
    return is_awaitable(value) or (hasattr(value, "__aiter__") and (loop_first or not hasattr(value, "__iter__")))


def is_generator(value: object) -> bool:
    """True for a generator or async generator object, not for an awaitable one."""
    if type(value) in PLAIN_TYPES:
        return False
    return type(value) in (GeneratorType, AsyncGeneratorType) and not _is_iterable_coroutine(value)


def refuse_result(value: object, described: Described, lane: str, *, verb: str = "map") -> UsageError | None:
    """The error for what only the first call can tell, or None if `value` is fine in this lane.

    A function that looks plain may return a coroutine, or an async iterable for `flat_map` (fine in the
    coroutine lane, an error elsewhere: they belong to the loop), or a generator (many results: `flat_map` only).
    A refused coroutine is closed, so that it is not reported as "never awaited" as well.
    """
    name = described.name
    is_pending = is_awaitable(value)
    if is_pending or (verb == "flat_map" and is_for_loop(value)):
        if lane == "coroutine":
            return None
        what = "a coroutine" if isinstance(value, CoroutineType) else "an awaitable"
        what, use = (what, "await") if is_pending else ("an async iterable", "iterate")
        close_unstarted(value)
        return UsageError(
            f"{verb}({name}): {name} returned {what} in the {lane} lane, where nothing can {use} "
            f'it; write .{verb}({name}, on="coroutine")'
        )
    if verb != "flat_map" and is_generator(value):
        return UsageError(
            f"{verb}({name}): {name} returned a generator; write .flat_map({name}) (many results an item)"
        )
    return None


def require_value(value: Any, option: str) -> Any:
    """What the function of an option gave, unless it would have to be awaited: nobody does.

    Raises:
        UsageError: it would.
    """
    if is_awaitable(value):
        close_unstarted(value)
        raise UsageError(f"{option}: its function must be plain, and returned {type(value).__name__}, to be awaited")
    return value


def close_unstarted(value: object) -> None:
    """Close a coroutine nobody has begun, so that no "never awaited" warning follows."""
    if type(value) is CoroutineType and inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
        value.close()


def _core(fn: object) -> object:
    """What is left of `fn` when partials, bound methods and staticmethods are taken off."""
    for _ in range(_MAX_WRAPPERS):
        if isinstance(fn, functools.partial):
            fn = fn.func
        elif isinstance(fn, MethodType | staticmethod):
            fn = fn.__func__
        else:
            break
    return fn


def _function_kind(fn: object) -> Kind:
    if getattr(fn, "__tornado_coroutine__", None) is True:
        return "tornado"
    if inspect.iscoroutinefunction(fn) or getattr(fn, "_is_coroutine", None) is _ASYNCIO_MARK:
        return "coroutine"
    if inspect.isgeneratorfunction(fn):
        flags = fn.__code__.co_flags
        return "coroutine" if flags & inspect.CO_ITERABLE_COROUTINE else "generator"
    return "async_generator" if inspect.isasyncgenfunction(fn) else "plain"


def _signature_of(fn: Callable[..., object]) -> inspect.Signature | None:
    try:
        return inspect.signature(fn)
    except (ValueError, TypeError):  # C functions without a text signature, odd objects
        return None


def _takes_positional(signature: inspect.Signature) -> bool:
    kinds = (*_POSITIONAL, inspect.Parameter.VAR_POSITIONAL)
    return any(p.kind in kinds for p in signature.parameters.values())


def _required(signature: inspect.Signature) -> list[inspect.Parameter]:
    return [p for p in signature.parameters.values() if p.default is p.empty and p.kind not in _VARIADIC]


def _beyond_the_item(signature: inspect.Signature) -> list[inspect.Parameter]:
    named = [p for p in signature.parameters.values() if p.kind not in _VARIADIC]
    return named[1:] if named and named[0].kind in _POSITIONAL else named


def _code_of(fn: object) -> CodeType | None:
    core = _core(fn)
    if not inspect.isclass(core):
        try:
            # Through functools.wraps: the line of the user's function, not of its decorator.
            core = _core(inspect.unwrap(core) if callable(core) else core)
        except ValueError:  # objects that claim to wrap themselves
            return None
        if not isinstance(getattr(core, "__code__", None), CodeType):
            core = _core(getattr(type(core), "__call__", None))  # noqa: B004 - the object behind it is wanted
    code = getattr(core, "__code__", None)
    # Not isinstance: an AsyncMock's code object claims to be one.
    return code if type(code) is CodeType else None


def _where_of(fn: object) -> str:
    code = _code_of(fn)
    return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}" if code else ""


def _name_of(fn: object) -> str:
    core = _core(fn)
    name = getattr(core, "__name__", None)
    if not isinstance(name, str):
        return type(core).__name__
    return f"lambda {_where_of(core)}" if name == "<lambda>" else name


def _identifier(name: str) -> str:
    return name if name.isidentifier() else "fn"


def _def_line(kind: Kind, name: str, parameter: str) -> str:
    keyword = "async def" if kind in ("coroutine", "async_generator") else "def"
    return f"{keyword} {_identifier(name)}({parameter}): ..."


def _use(verb: str, name: str) -> str:
    """The line to write: a method's call, or an option."""
    return f".{verb}({name})" if verb in _METHODS else f"{verb}={name}"


def _is_iterable_coroutine(value: object) -> bool:
    """True for a generator object made by a `types.coroutine` function: it is there to be awaited."""
    return type(value) is GeneratorType and bool(value.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def _refuse_non_callable(value: object, verb: str) -> NoReturn:
    name = getattr(value, "__name__", None)
    called = name if isinstance(name, str) else type(value).__name__
    if isinstance(value, CoroutineType) or _is_iterable_coroutine(value):
        close_unstarted(value)
        raise UsageError(
            f"{verb}({called}(...)): a coroutine object was given, so {called} was called already; "
            f"write {_use(verb, called)}"
        )
    if is_generator(value):
        better = verb if verb in ("flat_map", "through") else "flat_map"
        raise UsageError(
            f"{verb}({called}(...)): a generator object was given, so {called} was called already; "
            f"pass the function: write .{better}({called})"
        )
    if is_awaitable(value):
        raise UsageError(
            f"{verb}({type(value).__name__}): an awaitable was given, which stands for one result; "
            f"pass the function that makes it: write {_use(verb, 'fn')}"
        )
    if isinstance(value, str):
        shown = value if len(value) <= 40 else value[:37] + "..."
        line = _use(verb, value if value.isidentifier() else "fn")
        raise UsageError(f"{verb}({shown!r}): a str is not a function; write {line} with the function itself")
    shown = "None" if value is None else type(value).__name__
    what = "None" if value is None else f"an object of type {shown}"
    raise UsageError(
        f"{verb}({shown}): {what} is not a function; write {_use(verb, 'fn')} with fn a function of one item"
    )


def _refuse_generator(kind: Kind, name: str, verb: str) -> NoReturn:
    what = "a generator function" if kind == "generator" else "an async generator function"
    if verb in _METHODS:
        raise UsageError(
            f"{verb}({name}): {name} is {what}; write .flat_map({name}) (many results an item) "
            f"or .through({name}) (one generator over all items)"
        )
    raise UsageError(f"{verb}({name}): {name} is {what}; write {verb}={name} with a function that returns one value")


def _refuse_cached(fn: object, kind: Kind, name: str, verb: str) -> None:
    """Refuse `lru_cache` round what makes one-time objects: every hit is the same used-up one.

    An async cache (`async_lru.alru_cache`) has the same attributes, but is a coroutine function.
    """
    core = _core(fn)
    wrapped = getattr(core, "__wrapped__", None)
    if kind != "plain" or not callable(wrapped) or not callable(getattr(core, "cache_info", None)):
        return
    inner = kind_of(wrapped)
    if inner in ("coroutine", "tornado"):
        raise UsageError(
            f"{verb}({name}): {name} is an async function behind lru_cache, and a cached coroutine "
            f"can be awaited only once; write {_use(verb, name + '.__wrapped__')}, or cache it "
            "with an async cache such as async_lru.alru_cache"
        )
    if inner in ("generator", "async_generator"):
        raise UsageError(
            f"{verb}({name}): {name} is a generator function behind lru_cache, and a cached "
            f"generator can be used only once; write {_use(verb, name + '.__wrapped__')}"
        )
