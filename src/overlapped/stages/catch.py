"""`catch`: what becomes of failures."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.callables import is_plain, require_value
from overlapped._engine.failure import Failure, as_value, set_cause
from overlapped._engine.feed import SCAN_ROUNDS, Feed, Through
from overlapped._engine.lineage import beside, split
from overlapped.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.lineage import Mark
    from overlapped._engine.scope import Scope
    from overlapped.stages.base import Seat


class _Nothing:
    """Stays itself when a flow is copied or pickled: it is told by identity."""

    def __reduce__(self) -> str:
        return "NOTHING"


NOTHING: Final = _Nothing()
"""`replace` was left out: the item is dropped."""


class CatchFeed(Through):
    """Failures of the given types become a replacement, nothing, or the end."""

    def __init__(self, up: Feed, scope: Scope, stage: Catch, *, is_fatal: bool) -> None:
        super().__init__(up)
        self.gathers, self.sizing = up.gathers, up.sizing
        self.scope = scope
        self.stage = stage
        self.is_fatal = is_fatal
        self.marks = up.marks

    def take(self, want: int) -> list[object]:
        """Items and what became of failures."""
        if self.ended:
            return []
        for _ in range(SCAN_ROUNDS):
            chunk = self.up.take(want)
            self.marks = self.up.marks
            if not chunk:
                self.ended = self.up.ended
                return []
            if result := self._without_failures(chunk):
                return result
            if self.ended:
                return []
        return self.later()

    def _without_failures(self, chunk: list[object]) -> list[object]:
        result: list[object] = []
        marks: list[Mark] = []
        for item, mark in beside(self.up, chunk):
            before = len(result)
            if type(item) is not Failure or item.dead:
                result.append(item)
            elif not self._handle(item, result):
                self.halt()
            if len(result) > before:
                marks.append(mark)
            elif not self.ended:
                split(mark, into=0)
            if self.ended:
                break
        self.marks = None if self.marks is None else marks
        return result

    def demand(self, total: int) -> None:
        """Without drops it is one to one."""
        if self.stage.replace is not NOTHING:
            self.up.demand(total)

    def _handle(self, failure: Failure, result: list[object]) -> bool:
        """Put what becomes of a failure into `result`; False ends the flow."""
        stage = self.stage
        try:
            if not isinstance(failure.error, stage.types) or not _asked("where", stage.where, failure.error):
                result.append(failure)
                return not self.is_fatal
            _asked("do", stage.do, failure.error)
            if stage.stop:
                return False
            if stage.replace is not NOTHING:
                replace: Any = stage.replace
                result.append(_asked("replace", replace, failure.error) if callable(replace) else replace)
        except Exception as error:  # noqa: BLE001 - the user's handler; its error becomes the failure
            if error is not failure.error:
                set_cause(error, failure.error)
            result.append(
                Failure(
                    as_value(error, "catch"), "catch", failure.item, attempts=failure.attempts, weight=failure.weight
                )
            )
            return not self.is_fatal
        except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt and its like end the run
            result.append(Failure(as_value(error, "catch"), "catch", failure.item, dead=True))
            return False
        return True


def _asked(option: str, handler: Callable[[Any], object] | None, error: BaseException) -> object:
    """What a handler gives; True where there is none."""
    return handler is None or require_value(handler(error), f"catch({option})")


class Catch:
    """Handles the failures of the stages before it."""

    __slots__ = ("do", "replace", "stop", "types", "where")
    verb = "catch"

    def __init__(
        self,
        types: object,
        *,
        where: Callable[[Any], object] | None = None,
        replace: object = NOTHING,
        do: Callable[[Any], object] | None = None,
        stop: bool = False,
    ) -> None:
        listed: tuple[Any, ...] = types if isinstance(types, tuple) else (types,)
        if not listed:
            raise UsageError("catch(types): give at least one exception class, got ()")
        for one in listed:
            if not inspect.isclass(one) or not issubclass(one, BaseException):
                raise UsageError(f"catch(types): an exception class is needed, got {one!r}; write .catch(ValueError)")
            if not issubclass(one, Exception):
                raise UsageError(
                    f"catch({one.__name__}): {one.__name__} ends a program and is never an item's failure; "
                    f"write .catch(Exception)"
                )
        handlers: dict[str, Any] = {"where": where, "do": do}
        for name, value in handlers.items():
            if value is not None and not is_plain(value):
                raise UsageError(f"catch({name}): {name} must be a plain function of the exception, got {value!r}")
        if callable(replace) and not is_plain(replace):
            raise UsageError(f"catch(replace): replace must be a value or a plain function, got {replace!r}")
        if not isinstance(stop, bool):
            raise UsageError(f"catch(stop): stop must be True or False, got {stop!r}")
        self.types = listed
        self.where = where
        self.replace = replace
        self.do = do
        self.stop = stop

    @property
    def name(self) -> str:
        """`catch(ValueError)`."""
        return f"catch({', '.join(one.__name__ for one in self.types)})"

    def attach(self, up: Feed, scope: Scope, seat: Seat) -> Feed:
        """A feed without these failures."""
        return CatchFeed(up, scope, self, is_fatal=seat.is_fatal)

    def explain(self) -> str:
        """What becomes of a failure."""
        end = "end the flow" if self.stop else "drop the item" if self.replace is NOTHING else "replace the item"
        return f"{self.name}: {end}"
