"""Making the calls of a stage in their lane, and moving them when they show that they belong elsewhere."""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, Final, Literal

from overlapped._engine.callables import is_awaitable, is_generator, refuse_result
from overlapped._engine.direct import Direct
from overlapped._engine.foreign import ClientWatch
from overlapped._engine.job import Pending
from overlapped._engine.ports import Ported
from overlapped._engine.resources import open_blocking
from overlapped._engine.trays import DROPPED
from overlapped._engine.watch import run_delay_s
from overlapped.lanes import coroutine, inline, thread
from overlapped.stages.choosing import AWAITED, HOSTED, choose, hosted

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.callables import Described
    from overlapped._engine.crew import Crew
    from overlapped._engine.host import Work
    from overlapped._engine.hosts import HostPort
    from overlapped._engine.job import Job
    from overlapped._engine.ports import Outcome
    from overlapped._engine.resources import Opened
    from overlapped._engine.shape import Shape
    from overlapped.stages.base import Seat

JUDGED_CALLS: Final = 200
SHORT_CALL_S: Final = 100e-6
NEVER_WAITS: Final = 0.7
"""A plain function goes inline if, over 200 calls, the median is < 100 us and CPU / wall >= 0.7 (rule 14)."""

MOST_CALLS: Final = 0.9
TURNS: Final = 2
"""Threads wait for the interpreter, which they share, and that looks as if their calls waited. So it is enough if so
many calls show a ratio of 0.7 and none waited for more than two turns of the interpreter: inline they wait for nobody,
and are sent back if 200 last for 100 us on average. Files that are in memory, in 8 threads: 0.2 to 0.6 in all."""

LONG_INLINE_CALL_S: Final = 0.010
"""One inline call as long as this sends a stage's calls back to threads for good (rule 14)."""


class Placing:
    """Places one stage's calls in one run, and moves them when the calls show that they belong elsewhere."""

    work: Work
    port: HostPort

    def __init__(self, crew: Crew, fn: Callable[..., Any], described: Described, seat: Seat, *, on: object) -> None:
        self.crew = crew
        self.fn = fn
        self.described = described
        self.is_auto = not isinstance(on, str)
        self.has_begun = False
        self.lane, self.why = choose(on, described, crew.spec.timeout_s)
        self.names = [n for n in described.wants if n in seat.resources]
        self.per_worker = [n for n in self.names if n in seat.per_worker]
        self.judged: list[tuple[float, float]] | None = None
        self.judged_calls = JUDGED_CALLS  # after how many
        self.inline_from = (0, 0.0)  # calls, and their time, before those that are looked at together
        self.no_cpu_s = 0.0  # how long the loop's thread had been without a CPU when calls were last looked at
        if self.lane in HOSTED:
            self._will_be_hosted()
        else:
            crew.scope.needed_here.update(self.names)
            if self.lane != "thread":
                crew.scope.needed_on_loop.update(self.per_worker)
        may_move = self.is_auto and not self.per_worker and described.kind == "plain" and not crew.spec.many
        if may_move and crew.spec.timeout_s is None and (crew.learns or crew.limit > 1):
            self.judged = []  # with concurrency=1 it is one thread from the first call to the last

    def shape(self) -> Shape:
        """The shape to begin with."""
        makers = {"coroutine": self._coroutine, "inline": self._inline, "thread": self._thread}
        return makers.get(self.lane, self._hosted)()

    # -- in other processes -----------------------------------------------------------------------------

    def _will_be_hosted(self) -> None:
        """Pack what hosts must know, and start the first one while the run opens its resources."""
        from overlapped._engine.host import Work
        from overlapped._engine.parcels import pack_function

        crew, scope, name = self.crew, self.crew.scope, self.described.name
        at = f"{crew.spec.verb}({name}, on={self.lane!r})"
        scope.needed_in_hosts.update(self.names)
        packing = hosted(self.lane).PACKING
        factories = ((n, pack_function(scope.factories[n], f"using({n}) for {at}", n, packing)) for n in self.names)
        self.work = Work(
            pack_function(self.fn, at, name, packing),
            tuple(factories),
            name=name,
            verb=crew.spec.verb,
            kind=self.described.kind,
            many=crew.spec.many,
            main=packing.origin,
            argv=sys.argv,
            own=tuple(self.per_worker),
            packing=packing,
        )
        scope.starters.append(self._start_hosts)

    async def _start_hosts(self) -> None:
        from overlapped._engine.hosts import MOST_AHEAD, HostPort

        crew, room = self.crew, hosted(self.lane)
        scope, is_single = crew.scope, room.is_single(self.described.kind)
        # Generators that wait for their turn keep their slots: what lies behind them in their host may be what they
        # wait for. A host that makes one call at a time gives back what lies behind a long one.
        may_lie_ready = is_single or not crew.holds_slots
        end = await room.begin()
        try:
            self.port = HostPort(
                room.launch,
                self.work,
                clock=scope.clock,
                most=room.most_hosts(),
                is_single=is_single,
                ahead=MOST_AHEAD if may_lie_ready else 0,
                on_broken=scope.abort,
                on_cleanup_error=scope.cleanup_errors.append,
                on_message=self._say,
                timeout_s=crew.spec.timeout_s,
                on_ahead=self._lie_ready,
                can_cancel=room.can_cancel(self.described.kind),
                on_closed=end,
            )
        except BaseException:
            if end is not None:
                await end()
            raise
        scope.closers.append(self._end_hosts)
        await self.port.prepare(wait=bool(self.names))

    async def _end_hosts(self) -> None:
        """If the run ends before its calls begin: then nobody else does."""
        if not self.has_begun:
            await self.port.close(0.0)

    def _hosted(self) -> Shape:
        room = hosted(self.lane)
        self.has_begun = True
        most = room.most_hosts() if room.is_single(self.described.kind) else None
        return Ported(self.crew, self.port, self.lane, self.why, most=most, on_waiting=self.port.wait_for_turn)

    def _lie_ready(self, jobs: int) -> None:
        self.crew.lying_ready = jobs

    def _say(self, kind: Literal["unyielding", "client"], says: str, advice: str) -> None:
        """What a host, or a look at a client, has noticed; of each kind the first, as several hosts notice the same."""
        from overlapped.record import Remark

        if any(remark.kind == kind for remark in self.crew.remarks):
            return
        self.crew.remarks.append(Remark(kind, says, advice))
        try:
            warnings.warn(f"{self.crew.spec.name}: {says}; write {advice}", RuntimeWarning, stacklevel=2)
        except RuntimeWarning as error:  # warnings are errors here: this one is told when the run ends
            self.crew.scope.cleanup_errors.append(error)

    # -- here -------------------------------------------------------------------------------------------

    def _on_loop(self) -> Callable[..., Any]:
        given = {name: self.crew.scope.resources[name] for name in self.names}
        return functools.partial(self.fn, **given) if given else self.fn

    def _coroutine(self) -> Shape:
        fn, verb = self._on_loop(), self.crew.spec.verb
        many = self.crew.spec.many
        call = coroutine.many(fn, self.described) if many else coroutine.one(fn, verb, self.described)
        ClientWatch(self.crew, (self.crew.scope.resources[name] for name in self.names), self._say).begin()
        return Direct(self.crew, call, "coroutine", self.why)

    def _inline(self) -> Shape:
        fn, verb = self._on_loop(), self.crew.spec.verb
        many = self.crew.spec.many
        call = inline.many(fn, self.described) if many else inline.one(fn, verb, self.described)
        self.inline_from = (self.crew.calls, self.crew.service_s)
        self.no_cpu_s = run_delay_s(threading.get_native_id())
        on_turn = self._judge_inline if self.is_auto else None
        return Direct(self.crew, call, "inline", self.why, most=None if many else 1, on_turn=on_turn)

    def _thread(self) -> Shape:
        crew = self.crew
        port = thread.ThreadPort(
            self._bind,
            crew.spec.name,
            clock=crew.scope.clock,
            context=crew.scope.context,
            many=crew.spec.many,
            loop_first=self.is_auto and not self.per_worker,
            on_cleanup_error=crew.scope.cleanup_errors.append,
        )
        return Ported(
            crew,
            port,
            "thread",
            self.why,
            on_outcome=self._judge if self.judged is not None else None,
            on_awaitable=self._found_awaitable,
        )

    def _bind(self, opened: Opened) -> Callable[[Any], object]:
        """In a thread: the function with its resources, those per worker opened here."""
        given = {name: self.crew.scope.resources[name] for name in self.names if name not in self.per_worker}
        for name in self.per_worker:
            given[name] = open_blocking(self.crew.scope.factories[name], name, opened)
        fn = functools.partial(self.fn, **given) if given else self.fn
        verb = self.crew.spec.verb
        if verb in ("map", "flat_map"):
            return fn

        def call(item: object) -> object:
            result = fn(item)
            if is_awaitable(result) or is_generator(result):
                return result  # for the loop to deal with
            if verb == "tap" or result:
                return item
            return DROPPED

        return call

    # -- what the calls show -----------------------------------------------------------------------

    def _judge(self, outcome: Outcome) -> None:
        """Go inline if the calls are short and never wait; ask again and again."""
        judged = self.judged
        if judged is None:
            return
        judged.append((outcome.ended_s - outcome.started_s, outcome.cpu_s))
        if len(judged) < self.judged_calls:
            return
        wall, cpu = sum(w for w, _ in judged), sum(c for _, c in judged)
        median = sorted(w for w, _ in judged)[len(judged) // 2]
        waits = None
        if cpu >= NEVER_WAITS * wall:
            waits = f"never wait ({cpu / wall:.0%} CPU)"
        elif wait_for_python(judged):
            waits = "wait only for each other"
        if median < SHORT_CALL_S and waits is not None:
            self.judged = None
            self.why = f"its calls are short ({median * 1e6:.0f} us) and {waits}"
            self.crew.switch(self._inline)
        else:
            judged.clear()

    def _judge_inline(self, took_s: float) -> None:
        """Go back to threads if calls are not short, after all; for good after one that was long."""
        if took_s > LONG_INLINE_CALL_S:
            before_s, self.no_cpu_s = self.no_cpu_s, run_delay_s(threading.get_native_id())
            took_s -= self.no_cpu_s - before_s  # a busy machine is not the call's fault
        if took_s > LONG_INLINE_CALL_S:
            self.is_auto = False
            self.why = f"one of its inline calls took {took_s * 1e3:.0f} ms, so it runs in threads for good"
            self.crew.switch(self._thread)
            return
        calls, service_s = self.inline_from
        made = self.crew.calls - calls
        if made < JUDGED_CALLS:
            return
        mean_s = (self.crew.service_s - service_s) / made
        self.inline_from = (self.crew.calls, self.crew.service_s)
        if mean_s > SHORT_CALL_S:
            self.judged = []
            self.judged_calls *= 2
            self.why = f"its inline calls took {mean_s * 1e6:.0f} us each, so it runs in threads again"
            self.crew.switch(self._thread)

    def _found_awaitable(self, job: Job, value: Any) -> BaseException | None:
        """A function that looked plain returned a coroutine: await it here, and call it here from now on."""
        verb = self.crew.spec.verb
        if not self.is_auto or self.per_worker or (is_generator(value) and not self.crew.spec.many):
            return refuse_result(value, self.described, "thread", verb=verb)
        if self.crew.spec.many:
            job.pending = Pending(value, functools.partial(coroutine.finish_many, value, self.described.name))
        else:
            job.pending = Pending(value, lambda emit: coroutine.finish(value, verb, job.item))
        if job.index > self.crew.last:
            self.crew.drop(job)
            return None
        self.crew.ready.append(job)
        if self.lane != "coroutine":
            self.lane = "coroutine"
            self.judged = None
            self.why = f"{self.described.name} returns awaitables: {AWAITED}"
            self.crew.switch(self._coroutine)
        return None


def wait_for_python(judged: list[tuple[float, float]]) -> bool:
    """True if the waits in these calls, by wall and CPU time, may have been for the interpreter, which others had."""
    longest_s = max(wall - cpu for wall, cpu in judged)
    busy = sum(cpu >= NEVER_WAITS * wall for wall, cpu in judged)
    return busy >= MOST_CALLS * len(judged) and longest_s <= TURNS * sys.getswitchinterval()
