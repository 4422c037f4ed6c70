"""At most so many calls, or so many a second, for each key; the rest waits without a slot."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from overlapped._engine.callables import require_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.job import Job
    from overlapped._engine.scope import Scope
    from overlapped.rate import Bucket, Rate

MAX_QUIET_KEYS: Final = 1_000
"""Keys without calls that are remembered for their rate before they are swept."""


MOST_KEY_CHARS: Final = 80
"""Of a key that is named in the account."""


class _Name:
    """A key as it was when it was told: its hash may change during a call, and it must be found all the same."""

    __slots__ = ("_hash", "value")

    def __init__(self, value: object) -> None:
        self.value = value
        self._hash = hash(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Name) and (self.value is other.value or self.value == other.value)


class Key:
    """What is going on for one key."""

    __slots__ = ("bucket", "free_at_s", "jobs", "name", "paused_until_s", "running", "timer")

    def __init__(self, name: _Name, bucket: Bucket | None) -> None:
        self.name = name
        self.running = 0
        self.jobs: deque[Job] = deque()
        self.bucket = bucket
        self.free_at_s = -math.inf  # the rate allows the next start then
        self.paused_until_s = -math.inf
        self.timer: object = None


class Keys:
    """Items of one key start in order, at most `per_key` at once; blocked ones let others go past."""

    def __init__(
        self,
        scope: Scope,
        key_of: Callable[[Any], object],
        *,
        per_key: int | None,
        rate: Rate | None,
    ) -> None:
        self.scope = scope
        self.key_of = key_of
        self.per_key = math.inf if per_key is None else per_key
        self.rate = rate
        self.waiting = 0
        self.enqueue: Callable[[Job], None] = lambda job: None
        self._keys: dict[_Name, Key] = {}
        self._sweep_at = MAX_QUIET_KEYS

    def enter(self, job: Job) -> bool:
        """True if the job may start now; else it is kept and enqueued when its turn comes.

        Raises:
            Exception: whatever the user's key or weigh function raised, or TypeError for an unhashable key.
        """
        if job.has_place:
            return True
        if job.key is None:
            name = _Name(require_value(self.key_of(job.item), "key"))
            if self.rate is not None:  # now: when its turn comes, nobody would know whose failure it is
                job.key_weight = self.rate.weight_of(job.item)
            key = self._keys.get(name)
            if key is None:
                key = self._keys[name] = Key(name, self.rate.bucket() if self.rate is not None else None)
        else:  # forgotten meanwhile, perhaps, or another one of that name has come
            key = self._keys.setdefault(job.key.name, job.key)
        job.key = key
        if key.jobs or key.running >= self.per_key or self._delay_s(key) > 0:
            key.jobs.append(job)
            self.waiting += 1
            self._next(key)
            return False
        self._give_place(key, job)
        return True

    def leave(self, job: Job) -> None:
        """The job's call has ended for good, or it gives its place back while it is parked."""
        if not job.has_place:
            return
        key = job.key
        assert key is not None
        job.has_place = False
        key.running -= 1
        if key.jobs:
            self._next(key)
        elif self._is_idle(key):
            del self._keys[key.name]
        elif len(self._keys) > self._sweep_at:
            self._keys = {name: kept for name, kept in self._keys.items() if not self._is_idle(kept)}
            self._sweep_at = max(MAX_QUIET_KEYS, 2 * len(self._keys))

    @property
    def top(self) -> str:
        """The key with the most jobs waiting, as text; "" if none waits. Any thread may ask: it may miss some."""
        name, most = "", 0
        for key in list(self._keys.values()):
            if len(key.jobs) > most:
                name, most = repr(key.name.value)[:MOST_KEY_CHARS], len(key.jobs)
        return name

    def pause(self, key: Key | None, until_s: float) -> None:
        """No job of this key starts before `until_s`."""
        if key is not None:
            key.paused_until_s = max(key.paused_until_s, until_s)

    def drop_after(self, index: int) -> None:
        """Forget the waiting jobs beyond `index`."""
        for key in self._keys.values():
            kept = deque(job for job in key.jobs if job.index <= index)
            self.waiting -= len(key.jobs) - len(kept)
            key.jobs = kept

    def paused_s_left(self, key: Key | None) -> float:
        """Seconds for which this key is paused."""
        return 0.0 if key is None else max(0.0, key.paused_until_s - self.scope.clock())

    def _delay_s(self, key: Key) -> float:
        delay = max(key.free_at_s, key.paused_until_s) - self.scope.clock()
        return delay if delay > 1e-9 else 0.0

    def _give_place(self, key: Key, job: Job) -> None:
        key.running += 1
        job.has_place = True
        if key.bucket is not None:
            now = self.scope.clock()
            key.bucket.reserve(now, job.key_weight)
            key.free_at_s = now + key.bucket.delay_s(now)

    def _next(self, key: Key) -> None:
        """Enqueue the key's jobs as far as its number, rate and pause allow it."""
        while key.jobs and key.running < self.per_key and key.timer is None:
            if (delay := self._delay_s(key)) > 0:
                key.timer = self.scope.later(delay, lambda: self._due(key))
                return
            job = key.jobs.popleft()
            self.waiting -= 1
            self._give_place(key, job)
            self.enqueue(job)

    def _due(self, key: Key) -> None:
        key.timer = None
        self._next(key)

    def _is_idle(self, key: Key) -> bool:
        """True if there is nothing to remember: a bucket that is not full again would be forgotten too early."""
        if key.running or key.jobs or self._delay_s(key) > 0:
            return False
        return key.bucket is None or key.bucket.is_full(self.scope.clock())
