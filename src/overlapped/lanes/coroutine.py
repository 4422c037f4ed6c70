"""Calls awaited on the loop: for functions that return an awaitable (async def, Tornado coroutines)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from overlapped._engine.callables import is_awaitable
from overlapped._engine.lost import RunsOn
from overlapped._engine.trays import DROPPED, spread
from overlapped.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from overlapped._engine.callables import Described

    Emit = Callable[[list[object]], Awaitable[None]]


def one(fn: Callable[[Any], Awaitable[object]], verb: str, described: Described) -> Callable[[Any], Awaitable[object]]:
    """`fn` as a call with one result an item; `fn` itself for `map`, since a wrapper costs 0.085 us."""
    if described.kind == "plain":
        fn = _awaited(fn, verb, described.name)
    elif described.kind == "tornado":
        fn = _shielded(fn)
    if verb == "map":
        return fn

    async def tap(item: object) -> object:
        await fn(item)
        return item

    async def keep(item: object) -> object:
        return item if await fn(item) else DROPPED

    return tap if verb == "tap" else keep


def _shielded(fn: Callable[[Any], Any]) -> Callable[[Any], Awaitable[object]]:
    """Cancelling the future of a Tornado coroutine only hides that its body runs on, so it never gets there."""

    async def call(item: object) -> object:
        body: asyncio.Future[object] = fn(item)
        try:
            return await asyncio.shield(body)
        except asyncio.CancelledError:
            if body.done():
                raise
            raise RunsOn(body) from None

    return call


async def finish(pending: Awaitable[object], verb: str, item: object) -> object:
    """What a call of `verb` gives for `item`, once what its function returned has been awaited."""
    result = await pending
    if verb == "filter":
        return item if result else DROPPED
    return item if verb == "tap" else result


def _awaited(fn: Callable[[Any], Any], verb: str, name: str) -> Callable[[Any], Awaitable[object]]:
    async def call(item: object) -> object:
        value = fn(item)
        if not is_awaitable(value):
            raise UsageError(
                f'{verb}({name}, on="coroutine"): {name} returned {type(value).__name__}, which cannot be '
                f"awaited; write .{verb}({name})"
            )
        return await value

    return call


def many(fn: Callable[[Any], Any], described: Described) -> Callable[[Any, Emit], Awaitable[object]]:
    """`fn` as a call with many results: an iterable at once, an async iterator as it comes."""
    name = described.name
    if described.kind == "tornado":
        fn = _shielded(fn)

    async def call(item: object, emit: Emit) -> object:
        return await finish_many(fn(item), name, emit)

    return call


async def finish_many(value: Any, name: str, emit: Emit) -> object:
    """Hand on what a flat_map function returned."""
    if is_awaitable(value):
        value = await value
    if not hasattr(value, "__aiter__"):
        return spread(value, name)
    iterator = value.__aiter__()
    try:
        async for result in iterator:
            await emit([result])
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
    return DROPPED
