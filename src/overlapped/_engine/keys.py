"""At most so many calls, or so many a second, for each key; the rest waits without a slot."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.job import Job
    from overlapped._engine.scope import Scope
    from overlapped.rate import Bucket, Rate

MAX_QUIET_KEYS: Final = 1_000
"""Keys without calls that are remembered for their rate before they are swept."""


MOST_KEY_CHARS: Final = 80
"""Of a key that is named in the account."""


class _Key:
    """What is going on for one key."""

    __slots__ = ("bucket", "free_at_s", "jobs", "paused_until_s", "running", "timer")

    def __init__(self, bucket: Bucket | None) -> None:
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
        self._keys: dict[object, _Key] = {}
        self._sweep_at = MAX_QUIET_KEYS

    def enter(self, job: Job) -> bool:
        """True if the job may start now; else it is kept and enqueued when its turn comes.

        Raises:
            Exception: whatever the user's key or weigh function raised, or TypeError for an unhashable key.
        """
        if job.has_place:
            return True
        if job.key is None:
            key_value = (self.key_of(job.item),)
            hash(key_value)  # raises here, not when the job leaves
            job.key = key_value
            if self.rate is not None:  # now: when its turn comes, nobody would know whose failure it is
                job.key_weight = self.rate.weight_of(job.item)
        key = self._keys.get(job.key)
        if key is None:
            key = self._keys[job.key] = _Key(self.rate.bucket() if self.rate is not None else None)
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
        key = self._keys[job.key]
        job.has_place = False
        key.running -= 1
        if key.jobs:
            self._next(key)
        elif self._is_idle(key):
            del self._keys[job.key]
        elif len(self._keys) > self._sweep_at:
            self._keys = {name: kept for name, kept in self._keys.items() if not self._is_idle(kept)}
            self._sweep_at = max(MAX_QUIET_KEYS, 2 * len(self._keys))

    @property
    def top(self) -> str:
        """The key with the most jobs waiting, as text; "" if none waits. Any thread may ask: it may miss some."""
        name, most = "", 0
        for job_key, key in list(self._keys.items()):
            if len(key.jobs) > most and isinstance(job_key, tuple):
                name, most = repr(job_key[0])[:MOST_KEY_CHARS], len(key.jobs)
        return name

    def pause(self, job_key: object, until_s: float) -> None:
        """No job of this key starts before `until_s`."""
        key = self._keys.get(job_key)
        if key is not None:
            key.paused_until_s = max(key.paused_until_s, until_s)

    def drop_after(self, index: int) -> None:
        """Forget the waiting jobs beyond `index`."""
        for key in self._keys.values():
            kept = deque(job for job in key.jobs if job.index <= index)
            self.waiting -= len(key.jobs) - len(kept)
            key.jobs = kept

    def paused_s_left(self, job_key: object) -> float:
        """Seconds for which this key is paused."""
        key = self._keys.get(job_key)
        return 0.0 if key is None else max(0.0, key.paused_until_s - self.scope.clock())

    def _delay_s(self, key: _Key) -> float:
        delay = max(key.free_at_s, key.paused_until_s) - self.scope.clock()
        return delay if delay > 1e-9 else 0.0

    def _give_place(self, key: _Key, job: Job) -> None:
        key.running += 1
        job.has_place = True
        if key.bucket is not None:
            now = self.scope.clock()
            key.bucket.reserve(now, job.key_weight)
            key.free_at_s = now + key.bucket.delay_s(now)

    def _next(self, key: _Key) -> None:
        """Enqueue the key's jobs as far as its number, rate and pause allow it."""
        while key.jobs and key.running < self.per_key and key.timer is None:
            if (delay := self._delay_s(key)) > 0:
                key.timer = self.scope.later(delay, lambda: self._due(key))
                return
            job = key.jobs.popleft()
            self.waiting -= 1
            self._give_place(key, job)
            self.enqueue(job)

    def _due(self, key: _Key) -> None:
        key.timer = None
        self._next(key)

    def _is_idle(self, key: _Key) -> bool:
        """True if there is nothing to remember: a bucket that is not full again would be forgotten too early."""
        if key.running or key.jobs or self._delay_s(key) > 0:
            return False
        return key.bucket is None or key.bucket.is_full(self.scope.clock())
