"""Stages that call a function for every item: `map`, `flat_map`, `filter`, `tap`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from overlapped._engine.callables import describe, is_plain
from overlapped.control.auto import AUTO, Auto
from overlapped.control.base import ControllerSpec
from overlapped.errors import UsageError
from overlapped.stages.base import require_int, require_seconds
from overlapped.stages.choosing import HOSTED, check_lane_fits, choose, hosted

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.callables import Described
    from overlapped._engine.feed import Feed
    from overlapped._engine.scope import Scope
    from overlapped.rate import Rate
    from overlapped.retry import Retry
    from overlapped.stages.base import Seat


class Options(NamedTuple):  # a dataclass would cost 1 ms more at import
    """How the calls of a stage are made; the words of `Flow.map`."""

    concurrency: int | ControllerSpec = AUTO
    ordered: bool = True
    on: Auto | str = AUTO
    retry: Retry | None = None
    timeout_s: float | None = None
    rate: Rate | None = None
    key: Callable[[Any], object] | None = None
    per_key: int | Rate | None = None
    name: str | None = None


class CallStage:
    """One function, called once an item."""

    __slots__ = ("controller", "described", "fn", "name", "options", "verb")

    def __init__(self, verb: str, fn: Callable[..., Any], options: Options) -> None:
        self.verb = verb
        self.fn = fn
        self.described: Described = describe(fn, verb)
        self.options = options
        self.name = options.name if options.name is not None else self.described.name
        self.controller = self._check()

    def _check(self) -> ControllerSpec:
        """Refuse options that cannot work, while the line that wrote them is still on the stack."""
        o, at = self.options, f"{self.verb}({self.name})"
        if not self.name or not isinstance(self.name, str):
            raise UsageError(f"{self.verb}(name): name must be a non-empty str, got {self.name!r}")
        if not isinstance(o.on, Auto):
            check_lane_fits(o.on, self.described, self.verb)
        if isinstance(o.on, str) and o.on in HOSTED:
            from overlapped._engine.parcels import pack_function

            pack_function(self.fn, f"{at[:-1]}, on={o.on!r})", self.described.name, hosted(o.on).PACKING)
        if not isinstance(o.ordered, bool):
            raise UsageError(f"{at}: ordered must be True or False, got {o.ordered!r}")
        if o.timeout_s is not None:
            require_seconds(at, "timeout_s", o.timeout_s)
            if o.on == "inline" and self.described.kind == "plain":
                raise UsageError(f'{at}: an inline call cannot be timed out; leave out on="inline"')
        if o.retry is not None or o.rate is not None:
            self._check_retry_and_rate(at)
        self._check_keys(at)
        return self._concurrency(at)

    def _check_retry_and_rate(self, at: str) -> None:
        from overlapped.rate import Rate
        from overlapped.retry import Retry

        for name, kind in (("retry", Retry), ("rate", Rate)):
            value = getattr(self.options, name)
            if value is not None and not isinstance(value, kind):
                raise UsageError(f"{at}: {name} must be {kind.__name__}(...), got {value!r}")
        self._check_weigh(at, self.options.rate)

    def _check_weigh(self, at: str, rate: Rate | None) -> None:
        if rate is not None and rate.weigh is not None and not is_plain(rate.weigh):
            raise UsageError(f"{at}: weigh must be a plain function of the item, got {rate.weigh!r}")

    def _check_keys(self, at: str) -> None:
        o = self.options
        if (o.key is None) != (o.per_key is None):
            raise UsageError(f"{at}: key= and per_key= belong together; write key=fn, per_key=2")
        if o.key is not None and describe(o.key, "key").kind != "plain":
            raise UsageError(f"{at}: key must be a plain function of the item, got {o.key!r}")
        if o.per_key is not None:
            from overlapped.rate import Rate

            if isinstance(o.per_key, Rate):
                self._check_weigh(at, o.per_key)
            else:
                require_int(at, "per_key", o.per_key, 1)

    def _concurrency(self, at: str) -> ControllerSpec:
        given = self.options.concurrency
        if isinstance(given, int):
            from overlapped.control.fixed import Fixed

            return Fixed(require_int(at, "concurrency", given, 1))
        if isinstance(given, type) or not isinstance(given, ControllerSpec):
            raise UsageError(
                f"{at}: concurrency must be AUTO, an int >= 1 or an object with controller(), got {given!r}"
            )
        return given

    # -- resources -------------------------------------------------------------------------------------

    def missing(self, resources: frozenset[str]) -> list[str]:
        """Parameters beyond the item that nothing fills."""
        return [n for n in self.described.required if n not in resources or n not in self.described.wants]

    # -- a run -----------------------------------------------------------------------------------------

    def attach(self, up: Feed, scope: Scope, seat: Seat) -> Feed:
        """The crew that makes the calls."""
        from overlapped._engine.crew import Crew
        from overlapped._engine.job import CrewSpec
        from overlapped._engine.keys import Keys
        from overlapped.rate import Rate
        from overlapped.stages.placing import Placing

        o = self.options
        spec = CrewSpec(
            name=self.name,
            verb=self.verb,
            ordered=o.ordered,
            concurrency=self.controller,
            fatal=seat.is_fatal,
            many=self.verb == "flat_map",
            weighs=seat.weighs,
            bounds_bytes=isinstance(o.concurrency, Auto),
            retry=o.retry,
            timeout_s=o.timeout_s,
            rate=o.rate,
        )
        keys = None
        if o.key is not None:
            keys = Keys(
                scope,
                o.key,
                per_key=None if isinstance(o.per_key, Rate) else o.per_key,
                rate=o.per_key if isinstance(o.per_key, Rate) else None,
            )
        crew = Crew(up, scope, spec, keys)
        if keys is not None:
            keys.enqueue = crew.enqueue
        placing = Placing(crew, self.fn, self.described, seat, on=o.on)
        crew.install(placing.lane, placing.why, placing.shape)
        return crew

    def explain(self) -> str:
        """Lane, why, and the options that were given."""
        o = self.options
        lane, why = choose(o.on, self.described, o.timeout_s)
        where = f" ({self.described.where})" if self.described.where else ""
        parts = [f"{self.verb} {self.name}{where}: {self.described.kind} function, lane {lane} - {why}"]
        parts.append(f"concurrency {o.concurrency}" + ("" if o.ordered else ", as completed"))
        for name in ("retry", "timeout_s", "rate", "per_key"):
            value = getattr(o, name)
            if value is not None:
                parts.append(f"{name}={value}")
        if self.described.required:
            parts.append(f"resources {', '.join(self.described.required)}")
        return "; ".join(parts)
