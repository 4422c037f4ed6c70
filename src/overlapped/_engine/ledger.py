"""The account of one stage's time: its state at every moment, how long its calls took, a few of them as they were.

What it costs (benchmarks/overhead.py): a comparison and a modulo for each call, 0.04 us; about 2 us for each call
that is noted, which are at most some 2,000 a second, evenly chosen, and the slow ones.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush, heappushpop
from itertools import chain
from operator import length_hint
from typing import TYPE_CHECKING, Any, Final

from overlapped.record import Bin, Call, Point, Times

if TYPE_CHECKING:
    from overlapped._engine.crew import Crew
    from overlapped._engine.feed import Feed

FULL, STARVED, BLOCKED, ORDER, KEY, RATE, PAUSED, RETRY, LOST, ENDED = range(10)
"""The states, in the order of the fields of `Times`."""

NOTED_PER_S: Final = 2_000
"""Calls noted a second, about: 2 us each are 0.4 % of a core."""

STRIDES: Final = (1, 3, 7, 13, 31, 61, 127, 251, 509, 1021)
"""One call in so many is noted. Primes: a source whose every 16th item is slow must not hide behind a stride of 16."""

ADAPTED_EVERY: Final = 256
"""Calls noted between two looks at the stride: 0.1 s of them at most."""

SLOW_SHARE: Final = 0.01
"""The slowest calls, all of which are noted."""

NEVER_SLOW_S: Final = 100e-6
"""Calls shorter than this are only sampled: noting one would take a good part of its own time."""

MOST_KEPT: Final = 4_000
"""Calls kept of a stage; then every second one is let go: as many bars as a picture can show."""

MOST_SLOW: Final = 200
"""The slowest calls that are surely among them."""

MOST_FAILED: Final = 1_000
"""Failed attempts kept."""

NO_TIME_S: Final = 1e-9
"""What a call counts as that took no time at all: on a virtual clock, or below the clock's own step."""

POINT_S: Final = 0.05
MOST_POINTS: Final = 400
"""Points of a stage's series: 20 a second to begin with; at the bound every second one is let go."""


class Ledger:
    """The account of one stage in one run. All of it is bounded."""

    __slots__ = (
        "_bins",
        "_failed",
        "_looked_at",
        "_looked_s",
        "_point_every_s",
        "_points",
        "_samples",
        "_sampling",
        "_seen",
        "_since_s",
        "_slow",
        "_slow_seen",
        "_started_s",
        "_times",
        "edge_s",
        "next_point_s",
        "queued_s",
        "state",
        "stride",
    )

    def __init__(self, started_s: float, now_s: float) -> None:
        self._started_s = started_s  # of the run
        self.state = STARVED
        self._since_s = now_s
        self._times = [0.0] * len(Times._fields)
        # single calls
        self.edge_s = math.inf  # calls that take longer are all noted
        self.stride = 1  # of the others, one in so many
        self._seen = self._slow_seen = 0
        self._looked_at, self._looked_s = 0, now_s
        self._bins: dict[int, int] = {}
        self._samples: list[Call] = []
        self._sampling = 1  # of those noted, one in so many is kept
        self._slow: list[tuple[float, Call]] = []
        self._failed: list[Call] = []
        # series
        self._points: list[Point] = []
        self._point_every_s = POINT_S
        self.next_point_s = now_s
        self.queued_s = 0.0

    def begin(self, now_s: float) -> None:
        """The stage starts to pull now: what came before was the opening of resources."""
        self._since_s = self._looked_s = self.next_point_s = now_s

    # -- states ------------------------------------------------------------------------------------

    def enter(self, state: int, now_s: float) -> None:
        """The stage is in this state from now on."""
        self._times[self.state] += now_s - self._since_s
        self.state = state
        self._since_s = now_s

    def times(self, now_s: float) -> Times:
        """The account of states up to now."""
        times = self._times[:]
        times[self.state] += max(0.0, now_s - self._since_s)
        return Times(*times)

    # -- calls -------------------------------------------------------------------------------------

    def note(self, number: int, place: int, started_s: float, ended_s: float) -> None:
        """Note a call that was good. Whoever calls this has looked at `edge_s` and `stride`."""
        took_s = ended_s - started_s
        bins = self._bins
        if took_s > self.edge_s:
            self._slow_seen += 1
            weight = 1
        else:
            weight = self.stride
        mantissa, exponent = math.frexp(took_s or NO_TIME_S)
        step = exponent * 8 + int(mantissa * 16)  # mantissa is 0.5 to 1: eight steps an octave
        bins[step] = bins.get(step, 0) + weight
        seen = self._seen = self._seen + 1
        slow = self._slow
        if len(slow) < MOST_SLOW:
            heappush(slow, (took_s, Call(number, place, started_s - self._started_s, took_s)))
        elif took_s > slow[0][0]:
            heappushpop(slow, (took_s, Call(number, place, started_s - self._started_s, took_s)))
        if not seen % self._sampling:
            self._samples.append(Call(number, place, started_s - self._started_s, took_s))
            if len(self._samples) >= MOST_KEPT:
                del self._samples[1::2]
                self._sampling *= 2
        if not seen % ADAPTED_EVERY:
            self._adapt(number, ended_s)

    def note_failed(self, number: int, place: int, started_s: float, ended_s: float, *, again: bool) -> None:
        """Note an attempt that failed; `again`: another one follows."""
        took_s = max(0.0, ended_s - started_s)
        mantissa, exponent = math.frexp(took_s or NO_TIME_S)
        step = exponent * 8 + int(mantissa * 16)
        self._bins[step] = self._bins.get(step, 0) + 1
        if len(self._failed) < MOST_FAILED:
            outcome: Any = "retried" if again else "failed"
            self._failed.append(Call(number, place, started_s - self._started_s, took_s, outcome))

    def _adapt(self, number: int, now_s: float) -> None:
        """Follow the rate of calls with the stride, and their slowest hundredth with the edge."""
        calls, slow_seen = max(1, number - self._looked_at), self._slow_seen
        lasted_s = now_s - self._looked_s
        self._looked_at, self._looked_s, self._slow_seen = number, now_s, 0
        wanted = calls / lasted_s / NOTED_PER_S if lasted_s > 0 else 4 * self.stride
        was, self.stride = self.stride, next((stride for stride in STRIDES if stride >= wanted), STRIDES[-1])
        if self.stride == 1:
            self.edge_s = math.inf
        elif was == 1:
            self.edge_s = max(NEVER_SLOW_S, self._slowest_from())
        elif slow_seen > 2 * SLOW_SHARE * calls:
            self.edge_s *= 1.3
        elif slow_seen < SLOW_SHARE / 2 * calls:
            self.edge_s = max(NEVER_SLOW_S, self.edge_s / 1.3)

    def _slowest_from(self) -> float:
        """Where the slowest hundredth of the calls so far begins, s."""
        left = SLOW_SHARE * sum(self._bins.values())
        for step in sorted(self._bins, reverse=True):
            left -= self._bins[step]
            if left <= 0:
                return _edges(step)[0]
        return 0.0

    def latencies(self) -> tuple[Bin, ...]:
        """The histogram of service times."""
        bins = self._bins.copy()  # any thread may ask
        return tuple(Bin(*_edges(step), bins[step]) for step in sorted(bins))

    def kept_calls(self) -> tuple[Call, ...]:
        """Each call that was kept, once, by its start."""
        slow = [call for _, call in self._slow[:]]
        kept = {(call.number, call.started_s): call for call in chain(self._samples[:], slow, self._failed[:])}
        return tuple(sorted(kept.values(), key=_start))

    # -- series ------------------------------------------------------------------------------------

    def point(self, now_s: float, *, limit: int, in_flight: int, queue: int, calls: int, items_out: int) -> None:
        """One more point; called at `next_point_s` or later, by whoever notices."""
        at_s = now_s - self._started_s
        points = self._points
        if points:
            self.queued_s += (points[-1].queue + queue) / 2 * (at_s - points[-1].at_s)
        points.append(Point(at_s, limit, in_flight, queue, calls, items_out))
        if len(points) >= MOST_POINTS:
            del points[1::2]
            self._point_every_s *= 2
        self.next_point_s = now_s + self._point_every_s

    @property
    def points(self) -> tuple[Point, ...]:
        """The series so far."""
        return tuple(self._points)


class Places:
    """Numbers for slots: the smallest that is free."""

    __slots__ = ("_free", "_next")

    def __init__(self) -> None:
        self._free: list[int] = []
        self._next = 0

    def take(self) -> int:
        """A number that nobody has."""
        if self._free:
            return heappop(self._free)
        self._next += 1
        return self._next - 1

    def give_back(self, place: int) -> None:
        """Somebody else may have it; -1 is no number."""
        if place >= 0:
            heappush(self._free, place)


def _start(call: Call) -> float:
    return call.started_s


def _edges(step: int) -> tuple[float, float]:
    """From and to where a step of the histogram goes, s."""
    exponent, eighth = divmod(step - 8, 8)
    return math.ldexp((8 + eighth) / 16, exponent), math.ldexp((9 + eighth) / 16, exponent)


def why_idle(crew: Crew) -> int:
    """The state of a stage one of whose slots is free."""
    if crew.paused_until_s > crew.scope.clock():
        return PAUSED
    if crew.rate_waits:
        return RATE
    waiting = crew.keys.waiting if crew.keys is not None else 0
    if crew.has_no_input:
        return KEY if waiting else RETRY if crew.parked else ENDED
    cap = crew.cap
    # A look-ahead that is nearly full: its last places are filled as slowly as the source gives single items.
    if 4 * (crew.admitted - crew.released) < 3 * cap and not crew.is_held:
        return STARVED
    if 2 * waiting >= cap:
        return KEY
    if 2 * len(crew.parked) >= cap:
        return RETRY
    return ORDER if 2 * len(crew.late) >= cap and not crew.out else BLOCKED


def why_busy(crew: Crew, *, lost: int, waiting: int) -> int:
    """The state of a stage all of whose slots are taken, some of them by calls that are lost, or wait."""
    if crew.rate_waits:
        return RATE
    if lost and 2 * lost >= crew.limit:
        return LOST
    return RETRY if waiting and 2 * waiting >= crew.limit else FULL


def queued(crew: Crew) -> int:
    """Items that are ready for this stage and have not been started; those that cost nothing to pull don't count."""
    count = len(crew.ready) if crew.up.is_free else len(crew.ready) + length_hint(crew.input)
    return count + queued_before(crew)


def queued_before(feed: Feed) -> int:
    """Items that lie ready in what this feed takes from."""
    up: Any = getattr(feed, "up", None)
    while up is not None:
        held = getattr(up, "out", None)
        if held is None:
            held = getattr(up, "buffer", None)
        if held is not None:
            return len(held)
        up = getattr(up, "up", None)
    return 0
