"""Plain calls made on the loop itself: for functions that are short and never wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from overlapped._engine.callables import refuse_result
from overlapped._engine.trays import DROPPED, spread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from overlapped._engine.callables import Described

    Emit = Callable[[list[object]], Awaitable[None]]

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset})


def one(fn: Callable[[Any], Any], verb: str, described: Described) -> Callable[[Any], Awaitable[object]]:
    """`fn` as a call with one result an item."""

    async def call(item: object) -> object:
        result = fn(item)
        if type(result) not in _PLAIN:
            error = refuse_result(result, described, "inline", verb=verb)
            if error is not None:
                raise error
        if verb == "map":
            return result
        if verb == "filter":
            return item if result else DROPPED
        return item

    return call


def many(fn: Callable[[Any], Any], described: Described) -> Callable[[Any, Emit], Awaitable[object]]:
    """`fn` as a call with many results, streamed if it returns an iterator."""

    async def call(item: object, emit: Emit) -> object:
        value = fn(item)
        error = refuse_result(value, described, "inline", verb="flat_map")
        if error is not None:
            raise error
        if not hasattr(value, "__next__"):
            return spread(value, described.name)
        try:
            for result in value:
                await emit([result])
        finally:
            close = getattr(value, "close", None)
            if close is not None:
                close()
        return DROPPED

    return call
