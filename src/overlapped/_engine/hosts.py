"""Calls in other processes: feeds the hosts of one stage, and sees to it that each job is answered once.

Over 400 lines, because who holds which job, what each host may run, and what becomes of both when a host dies
is one state.
"""

from __future__ import annotations

import asyncio
import math
import pickle
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal

from overlapped._engine.host import GOES_ON, OK, SPOILED, Host
from overlapped._engine.ledger import Places
from overlapped._engine.parcels import PackedError, know_main, pack, refuse_while_main_is_imported, unpack_error
from overlapped._engine.ports import Outcome, Running
from overlapped._engine.scope import GRACE_S
from overlapped.errors import HostDied, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    from overlapped._engine.host import End, Entry, Work
    from overlapped._engine.links import Link, OnFrame, OnGone

SHORT_S: Final = 0.0025
"""A host that makes one call at a time has more work ready if its calls take no longer: each is soon over, ..."""

SHORT_AHEAD_S: Final = 0.016
"""... and calls of 1 ms then share a frame by tens: the run and the listening thread spend a third of the CPU on each
that they do with 4 ms ready, which the processes that compute have for themselves (benchmarks/lanes.py)."""

MOST_AHEAD: Final = 1_000
"""Jobs that lie ready at most; from a thousand on, a chunk's own cost can no longer be seen."""

CHUNK_BYTES: Final = 2**19
"""Larger chunks are slower: 1.6 MB took 10-70 % longer an item than 0.4 MB (prototype)."""

AHEAD_BYTES: Final = 2 * CHUNK_BYTES
"""Nor do more bytes lie ready: one chunk that is worked on, and one that is on its way."""

CANCEL_S: Final = 1.0
"""A plain call that was told to stop and goes on for so long loses its process."""

SILENT_S: Final = 1.0
"""A host tells of a long call within 20 ms. One that has work and says nothing for so long cannot: its call keeps the
interpreter, or the process is stopped. So from then on the time of that call runs."""

DEAF_S: Final = 5.0
"""A host of many calls that does not even hear of a cancellation for so long is held up by one of them, and ended."""

STARTING_S: Final = 1.0
"""So long hosts that start keep their part of the limit beside one that is ready: it would open connections for it."""

FALSE_STARTS: Final = 3
"""Hosts in a row that die before they are ready: then it is not bad luck."""

SMOOTHING: Final = 0.2
"""Weight of the newest chunk in the mean service time."""


class HostPort:
    """A port (see `_engine.ports`) to processes.

    Each host has credits, counted in jobs: what it may run at once, and a few ms of work that lie ready. The
    limit is divided among the hosts. A job is in the queue, with one host, or in a group of suspects; a host
    that dies leaves its unanswered jobs under suspicion. They are called again in groups of half the size, each
    alone in its host, down to a single one: if that host dies too, its job has failed.

    Args:
        launch: starts a host.
        work: what it is to do.
        most: hosts at most.
        is_single: a host makes one call at a time, and loses its process if a cancelled one goes on.
        ahead: jobs that lie ready in a host at most, beyond those it runs.
        on_broken: told when no host can work: the run is to end.
        on_cleanup_error: told of what was raised while a host closed its resources.
        on_message: told what a host has noticed: kind, text, and the line to write instead.
        timeout_s: of one call. The caller sees to it, but where several lie in a host that says nothing.
        on_ahead: told how many jobs all hosts together hold beyond those they run.
        can_cancel: a call that runs can be ended.
        on_closed: called once, when no host is left.
    """

    def __init__(
        self,
        launch: Callable[[OnFrame, OnGone], Link],
        work: Work,
        *,
        clock: Callable[[], float],
        most: int,
        is_single: bool,
        ahead: int = MOST_AHEAD,
        on_broken: Callable[[BaseException], None],
        on_cleanup_error: Callable[[BaseException], None],
        on_message: Callable[[Literal["unyielding"], str, str], None],
        timeout_s: float | None = None,
        on_ahead: Callable[[int], None] = lambda ahead: None,
        can_cancel: bool = True,
        on_closed: End | None = None,
    ) -> None:
        refuse_while_main_is_imported()
        know_main()
        self._loop = asyncio.get_running_loop()
        self._launch = launch
        self._work = work
        self._offset_s = clock() - time.perf_counter()
        self._most = most
        self._is_single = is_single
        self._tells_soon = is_single or not work.own  # else its workers open what is their own before they begin
        self._most_ahead = ahead
        self._on_broken = on_broken
        self._on_cleanup_error = on_cleanup_error
        self._on_message = on_message
        self._timeout_s = timeout_s
        self._on_ahead = on_ahead
        self._can_cancel = can_cancel
        self._on_closed = on_closed
        self._deliver: Callable[[list[Outcome]], None] = lambda outcomes: None
        self._hosts: list[Host] = []
        self._places = Places()
        self._queue: deque[tuple[int, object]] = deque()
        self._groups: deque[list[tuple[int, object]]] = deque()
        self._suspects: set[int] = set()
        self._waiting: set[int] = set()
        self._limit = 1
        self._ahead = 0
        self._mean_s = 0.0
        self._item_bytes = 0.0
        self._false_starts = 0
        self._parts_kept_until_s = -math.inf  # those of hosts that start
        self._timers: set[asyncio.TimerHandle] = set()
        self._is_closing = False
        self._ready: list[asyncio.Future[None]] = []
        self._changed: asyncio.Future[None] | None = None

    # -- the port -----------------------------------------------------------------------------------------

    async def prepare(self, *, wait: bool) -> None:
        """Start the first host early, so that its start-up hides behind that of the run; wait until it is ready?

        Raises:
            Exception: what kept it from being ready, such as a resource that cannot be opened.
        """
        self._start_host()
        if wait:
            ready = self._loop.create_future()
            self._ready.append(ready)
            await ready

    def open(self, deliver: Callable[[list[Outcome]], None]) -> None:
        """Be ready; hosts start when there are jobs for them."""
        self._deliver = deliver
        if self._tells_soon and self._timeout_s is not None:
            self._later(SILENT_S, self._end_silent)

    def put(self, jobs: list[tuple[int, object]]) -> None:
        """Queue the jobs and give them to hosts that have room."""
        self._queue.extend(jobs)
        self._go_on()

    def limit(self, n: int) -> None:
        """Divide a new limit among the hosts."""
        self._limit = n
        self._go_on()

    def withdraw(self) -> list[tuple[int, object]]:
        """Empty the queue. What lies ready in a host (a few ms of work) counts as started."""
        jobs = sorted([*self._queue, *(job for group in self._groups for job in group)], key=_number)
        self._queue.clear()
        self._groups.clear()
        return jobs

    def running(self) -> list[Running]:
        """The calls that hosts have told of; those that were sent and may have begun have no start yet."""
        silent_since_s = self._now() - SILENT_S
        calls = []
        for host in self._hosts:
            started = host.started
            if self._tells_soon and len(host.sent) == 1 and not started and host.heard_s < silent_since_s:
                started = dict.fromkeys(host.sent, host.heard_s + SILENT_S)
            calls += [Running(number, started.get(number, math.inf)) for number in host.sent]
        return calls

    def wait_for_turn(self, numbers: set[int]) -> None:
        """Know of generators that wait for an item which has not given anything yet; it must find room."""
        self._waiting = numbers
        self._make_room()

    def _make_room(self) -> None:
        """Start one more host if all calls that run wait for one that could not begin yet."""
        if (self._queue or self._groups) and all(
            host.is_ready and host.sent and self._waiting.issuperset(host.sent) for host in self._hosts
        ):
            self._start_another()

    def acknowledge(self, index: int, count: int) -> None:
        """Let a generator go on."""
        if (host := self._host_of(index)) is not None:
            host.link.send(["ack", index, count])

    def cancel(self, index: int) -> bool:
        """Tell the host. It is killed if the only call that it makes doesn't stop, or if it doesn't listen."""
        host = self._host_of(index)
        if host is not None and index not in host.cancelled:
            host.cancelled.add(index)
            host.spoiled.pop(index, None)
            host.unheard.add(index)
            host.link.send(["cancel", index])
            if self._is_single:
                self._later(CANCEL_S, self._condemn, host, index, host.cancelled)
            else:
                self._later(DEAF_S, self._condemn, host, index, host.unheard)
        return self._can_cancel

    async def close(self, grace_s: float) -> int:
        """Let the hosts finish what they run, close their resources and end; kill those that don't."""
        self._is_closing = True
        self.withdraw()
        for timer in self._timers:
            timer.cancel()
        for host in self._hosts:
            host.link.send(["end"])
            if not (host.is_ready or self._work.factories):
                host.condemn()  # it has nothing to finish
        began = self._loop.time()
        killed = 0
        while self._hosts:
            waited_s = self._loop.time() - began
            if waited_s >= grace_s:
                killed += self._end_busy()
            if waited_s >= max(grace_s, GRACE_S):
                self._end_stuck()
            await self._change(max(0.001, min(0.05, grace_s - waited_s)))
        self._deliver = lambda outcomes: None
        for ready in self._ready:
            ready.cancel()
        end, self._on_closed = self._on_closed, None
        if end is not None:
            await end()
        return killed

    def _end_busy(self) -> int:
        """Kill hosts whose calls go on; returns how many calls."""
        killed = 0
        for host in self._hosts:
            if host.sent and not host.is_condemned:
                host.condemn()
                killed += min(len(host.sent), max(1, host.may_run))
        return killed

    def _end_stuck(self) -> None:
        """Kill hosts that close their resources, or still open them: these came too late, which is no failure."""
        for host in self._hosts:
            if not (host.sent or host.is_condemned):
                host.condemn()
                if host.is_ready:
                    where = host.link.place
                    self._on_cleanup_error(RemoteError(f"{where} did not close its resources within {GRACE_S:g} s"))

    async def _change(self, most_s: float) -> None:
        """Wait until a host has ended, or for so long."""
        self._changed = changed = self._loop.create_future()
        timer = self._loop.call_later(most_s, _done, changed)
        try:
            await changed
        finally:
            timer.cancel()

    # -- hosts --------------------------------------------------------------------------------------------

    def _host_of(self, number: int) -> Host | None:
        return next((host for host in self._hosts if number in host.sent), None)

    def _start_host(self) -> None:
        host = Host(self._places.take() if self._is_single else -1)
        host.link = self._launch(
            lambda about, values: self._heard(host, about, values), lambda how: self._gone(host, how)
        )
        self._hosts.append(host)
        self._keep_parts()
        host.link.send(["work", self._work])

    def _keep_parts(self) -> None:
        """Hosts that start have their part of the limit for a while."""
        self._parts_kept_until_s = self._loop.time() + STARTING_S
        self._later(STARTING_S, self._go_on)

    def _start_another(self) -> bool:
        """Start one more; if the system has no process left, those that there are must do."""
        try:
            self._start_host()
        except OSError as error:
            if not self._hosts and not self._settle_ready(error):
                self._on_broken(error)
            return False
        return True

    def _go_on(self) -> None:
        """Start hosts, divide the limit, and give out jobs."""
        if self._is_closing:
            return
        jobs = len(self._queue) + sum(len(group) for group in self._groups)
        if jobs:
            held = sum(len(host.sent) for host in self._hosts)
            while len(self._hosts) < min(self._limit, self._most, jobs + held):
                if not self._start_another():
                    break
            if not self._hosts:
                return
        self._divide()
        self._give_groups()
        if self._queue:
            self._give_jobs()
        if self._waiting:
            self._make_room()

    def _divide(self) -> None:
        """Tell each host its part of the limit; all that may run together never exceed it."""
        hosts = [host for host in self._hosts if host.is_ready]
        if not hosts:
            return
        limit = min(self._limit, len(hosts)) if self._is_single else self._limit
        starts = self._loop.time() < self._parts_kept_until_s
        part, rest = divmod(limit, len(self._hosts) if starts else len(hosts))
        shares = [part + (at < rest) for at in range(len(hosts))]
        run = [min(host.may_run, len(host.sent)) for host in hosts]
        # After a cut, some run more than their share; so much less the others may begin.
        excess = sum(max(0, now - share) for now, share in zip(run, shares, strict=True))
        for host, now, share in zip(hosts, run, shares, strict=True):
            cut = min(share, excess) if now <= share else 0
            excess -= cut
            host.may_run = max(share - cut, now)
            if share - cut != host.told:
                self._tell(host, share - cut)

    def _tell(self, host: Host, limit: int) -> None:
        host.told = limit
        host.link.send(["limit", limit])

    def _give_groups(self) -> None:
        """Suspects go to an empty host; if there is none, one is emptied for them."""
        for host in self._hosts:
            if self._groups and host.told and not host.sent:
                host.is_alone, host.is_reserved = True, False
                self._send(host, self._groups.popleft())
        if not self._groups:
            for host in self._hosts:
                host.is_reserved = False
        elif not any(host.is_alone or host.is_reserved for host in self._hosts):
            ready = [host for host in self._hosts if host.told]
            if ready:
                min(ready, key=_load).is_reserved = True

    def _give_jobs(self) -> None:
        queue = self._queue
        hosts = [host for host in self._hosts if host.told and not (host.is_alone or host.is_reserved or host.is_held)]
        for at, host in enumerate(sorted(hosts, key=_load)):
            # Nothing lies ready behind a call that is known to be long.
            ahead = 0 if self._is_single and host.started else self._ahead
            room = host.told + ahead - len(host.sent)
            if room < max(1, ahead // 2):
                continue
            left = min(room, -(-len(queue) // (len(hosts) - at)))
            while left:
                most = max(1, int(CHUNK_BYTES / self._item_bytes)) if self._item_bytes else 1
                jobs = [queue.popleft() for _ in range(min(left, most))]
                left -= len(jobs)
                self._send(host, jobs)

    def _send(self, host: Host, jobs: list[tuple[int, object]]) -> None:
        try:
            values = pack([item for _, item in jobs], self._work.packing)
        except Exception as error:  # noqa: BLE001 - what pickle raises depends on the object
            if len(jobs) > 1:
                for job in jobs:
                    self._send(host, [job])
                return
            number, item = jobs[0]
            error.add_note(f"overlapped: an item of type {type(item).__name__} cannot be sent to another process")
            outcome = Outcome(number, "error", error, self._now(), self._now())
            self._loop.call_soon(self._deliver_late, outcome)
            host.is_alone = host.is_alone and bool(host.sent)
            return
        self._item_bytes = max(len(values) / len(jobs), 0.5 * self._item_bytes)
        if not host.sent:
            host.heard_s = self._now()
        host.sent.update(jobs)
        host.link.send(["run", [number for number, _ in jobs]], values)

    def _deliver_late(self, outcome: Outcome) -> None:
        self._deliver([outcome])
        self._go_on()

    def _now(self) -> float:
        return time.perf_counter() + self._offset_s

    # -- what hosts say -----------------------------------------------------------------------------------

    def _heard(self, host: Host, about: list[Any], values: memoryview) -> None:
        """One frame. The methods that take it are named after what it is about."""
        host.heard_s = self._now()
        getattr(self, f"_heard_{about[0]}")(host, *about[1:], values)

    def _heard_ready(self, host: Host, values: memoryview) -> None:
        host.is_ready = True
        self._false_starts = 0
        if not all(other.is_ready for other in self._hosts):
            self._keep_parts()
        self._settle_ready(None)
        self._go_on()

    def _heard_broken(self, host: Host, packed: tuple[bytes, str, str], values: memoryview) -> None:
        error = unpack_error(PackedError(*packed), host.link.place)
        if not self._settle_ready(error):
            self._on_broken(error)

    def _settle_ready(self, error: BaseException | None) -> bool:
        waiting, self._ready = self._ready, []
        for ready in waiting:
            if not ready.done():
                ready.set_result(None) if error is None else ready.set_exception(error)
        return bool(waiting)

    def _heard_started(self, host: Host, calls: list[tuple[int, float]], values: memoryview) -> None:
        for number, started_s in calls:
            if number in host.sent:
                host.started[number] = started_s + self._offset_s + host.link.offset_s
        if self._is_single and len(host.sent) > 1:  # this call is long: what lies behind it need not wait
            host.link.send(["back"])

    def _heard_back(self, host: Host, numbers: list[int], values: memoryview) -> None:
        returned = [(number, host.sent.pop(number)) for number in numbers if number in host.sent]
        gone = [number for number, _ in returned if number in host.cancelled]
        back = [job for job in returned if job[0] not in gone]
        host.cancelled.difference_update(gone)
        if gone:
            now = self._now()
            self._deliver([Outcome(number, "error", asyncio.CancelledError(), now, now) for number in gone])
        if not host.is_alone:  # before those that came later, whichever host had them
            self._queue = deque(sorted([*back, *self._queue], key=_number))
        elif back:
            self._groups.appendleft(back)
        host.is_alone = host.is_alone and bool(host.sent)
        self._go_on()

    def _heard_held(self, host: Host, numbers: list[int], values: memoryview) -> None:
        """One of its calls holds up all others: what it has not begun goes to those that can begin it."""
        host.is_held = True
        self._heard_back(host, numbers, values)

    def _heard_turns(self, host: Host, values: memoryview) -> None:
        host.is_held = False
        self._go_on()

    def _heard_unreadable(self, host: Host, numbers: list[int], packed: tuple[bytes, str, str], _: memoryview) -> None:
        """Items that the host could not unpack; among several, nobody knows which."""
        self._suspect(host, numbers, unpack_error(PackedError(*packed), host.link.place), is_sure=True)

    def _heard_stopping(self, host: Host, number: int, values: memoryview) -> None:
        host.unheard.discard(number)

    def _heard_says(self, host: Host, says: str, advice: str, values: memoryview) -> None:
        self._on_message("unyielding", says, advice)

    def _heard_closed(self, host: Host, packed: tuple[bytes, str, str], values: memoryview) -> None:
        self._on_cleanup_error(unpack_error(PackedError(*packed), host.link.place))

    def _heard_done(self, host: Host, entries: list[Entry], cpu_s: float, values: memoryview) -> None:
        try:
            results = pickle.loads(values)  # noqa: S301 - a private socket to a process of our own
        except Exception as error:  # noqa: BLE001 - classes that this process does not have, or their own __setstate__
            error.add_note(f"overlapped: a result from {host.link.place} cannot be read here")
            self._lost_results(host, entries, error)
            return
        self._item_bytes = max(len(values) / len(entries), self._item_bytes)
        others = sum(other.in_flight for other in self._hosts if other is not host)
        outcomes = []
        over: list[int] = []  # of those that have lost a part
        spent_s = 0.0
        verb, each_s, offset_s = self._work.verb, cpu_s / len(entries), self._offset_s + host.link.offset_s
        sent, limit, is_map = host.sent, self._limit, verb in ("map", "flat_map")
        for entry, value in zip(entries, results, strict=True):
            number, code, started_s, ended_s, in_flight = entry
            at_once = in_flight + others
            if at_once > limit:
                at_once = limit
            if code == OK and is_map and number in sent and not host.started:  # most of them; this saves 0.2 us
                del sent[number]
                host.in_flight = in_flight
                spent_s += ended_s - started_s
                about = (number, "ok", value, started_s + offset_s, ended_s + offset_s, each_s, at_once, host.place)
                outcomes.append(tuple.__new__(Outcome, about))
                if self._suspects:
                    self._suspects.discard(number)
                continue
            if code == SPOILED or number in host.spoiled:
                over += self._over_without_part(host, number, code, value)
                continue
            outcome = host.outcome(verb, entry, value, offset_s, each_s, at_once)
            if outcome is not None:
                outcomes.append(outcome)
                spent_s += outcome.ended_s - outcome.started_s
                if self._suspects and outcome.kind != "part":
                    self._suspects.discard(outcome.number)
        self._after(host, outcomes, spent_s)
        self._end_spoiled(host, over)

    def _lost_results(self, host: Host, entries: list[Entry], error: BaseException) -> None:
        """What a host has told cannot be read; among several, nobody knows which it was."""
        numbers = dict.fromkeys(entry[0] for entry in entries if entry[0] in host.sent)
        over = [entry[0] for entry in entries if entry[1] not in GOES_ON]
        is_sure = len(numbers) == 1
        for number in numbers:
            if number not in over:
                self._spoil(host, number, error, is_sure=is_sure)
        self._suspect(host, over, error, is_sure=is_sure)

    def _over_without_part(self, host: Host, number: int, code: int, value: Any) -> list[int]:
        """What a host tells of a generator that has lost a part; its number, if that was its end."""
        if code == SPOILED:
            self._spoil(host, number, unpack_error(PackedError(*value), host.link.place), is_sure=True)
        return [] if code in GOES_ON else [number]

    def _spoil(self, host: Host, number: int, error: BaseException, *, is_sure: bool) -> None:
        """A generator has lost a part and goes on: it ends first, or it would mix with the call that is made again."""
        if number in host.sent and number not in host.cancelled:
            host.spoiled.setdefault(number, (error, is_sure))
            host.link.send(["ack", number, -1])
            host.link.send(["cancel", number])

    def _end_spoiled(self, host: Host, numbers: list[int]) -> None:
        """They have ended, and what was lost of them is told."""
        for number in numbers:
            error, is_sure = host.spoiled.pop(number)
            self._suspect(host, [number], error, is_sure=is_sure)

    def _after(self, host: Host, outcomes: list[Outcome], spent_s: float) -> None:
        if not host.sent:
            host.is_alone = False
            host.in_flight = 0
        if host.emitted:
            host.emitted.intersection_update(host.sent)
        if host.spoiled:
            host.spoiled = {number: why for number, why in host.spoiled.items() if number in host.sent}
        if host.cancelled:
            host.cancelled.intersection_update(host.sent)
            host.unheard.intersection_update(host.sent)
        ended = sum(outcome.kind != "part" for outcome in outcomes)
        if ended and spent_s:
            mean_s = spent_s / ended
            # Long calls count at once: what is sent ahead of them would wait for them.
            known = self._mean_s or mean_s
            self._mean_s = max(mean_s, known + SMOOTHING * (mean_s - known))
            share = max(1, host.told)
            most = min(self._most_ahead, int(AHEAD_BYTES / self._item_bytes)) if self._item_bytes else self._most_ahead
            ahead_s = SHORT_AHEAD_S if self._is_single and self._mean_s <= SHORT_S else host.link.ahead_s
            self._ahead = min(most, int(ahead_s * share / self._mean_s))
            self._on_ahead(self._ahead * len(self._hosts))
        self._deliver(outcomes)
        self._go_on()

    # -- what goes wrong ----------------------------------------------------------------------------------

    def _later(self, delay_s: float, call: Callable[..., None], *args: object) -> None:
        def fire() -> None:
            self._timers.discard(handle)
            call(*args)

        handle = self._loop.call_later(delay_s, fire)
        self._timers.add(handle)

    def _condemn(self, host: Host, number: int, reasons: set[int]) -> None:
        """The call goes on though it was cancelled, if it is still among the `reasons` to kill its host."""
        if number in reasons and number in host.sent and host in self._hosts and not host.is_condemned:
            host.condemn()

    def _end_silent(self) -> None:
        """End hosts that must be in a call whose time is up: which one it is shows when each is called again alone."""
        assert self._timeout_s is not None
        silent_since_s = self._now() - SILENT_S - self._timeout_s
        for host in self._hosts:
            if len(host.sent) > 1 and not host.started and host.heard_s < silent_since_s and not host.is_condemned:
                host.is_silent = True
                host.condemn()
        self._later(SILENT_S, self._end_silent)

    def _gone(self, host: Host, how: str) -> None:
        """A host has ended: its jobs are answered, suspected, or to be called again."""
        self._hosts.remove(host)
        self._places.give_back(host.place)
        if self._changed is not None:
            _done(self._changed)
        if self._is_closing:
            return
        now = self._now()
        gone = [number for number in host.sent if number in host.cancelled]
        for number in gone:
            del host.sent[number]
        if gone:
            self._deliver([Outcome(number, "error", asyncio.CancelledError(), now, now) for number in gone])
        if host.is_condemned and (host.is_silent or not host.is_alone):
            self._call_again(host)
        elif not host.is_ready:
            self._false_starts += 1
            error = HostDied(f"{host.link.place} ended with {how} before it was ready to work")
            if self._false_starts >= FALSE_STARTS:
                if not self._settle_ready(error):
                    self._on_broken(error)
                return
            if not self._hosts and not self._start_another():
                return
        else:
            died = HostDied(f"{host.link.place}, which made this call, ended with {how}")
            self._suspect(host, [*host.sent], died)
        self._go_on()

    def _call_again(self, host: Host) -> None:
        """What a host had that was ended for one of its calls; if nobody knows which, each is called alone."""
        died = HostDied(f"{host.link.place}, which made this call, was ended, as another call in it did not stop")
        now = self._now()
        begun = [number for number in host.sent if number in host.emitted]
        again = [job for job in host.sent.items() if job[0] not in host.emitted]
        if host.is_silent:
            self._groups.extend([job] for job in again)
        else:
            self._queue = deque(sorted([*again, *self._queue], key=_number))
        self._deliver([Outcome(number, "error", died, now, now) for number in begun])

    def _suspect(self, host: Host, numbers: list[int], error: BaseException, *, is_sure: bool = False) -> None:
        """One of these jobs killed its host, or cannot be read: each half is tried again alone.

        If it is only one and `is_sure`, it did.
        """
        jobs = [(number, host.sent.pop(number)) for number in numbers if number in host.sent]
        now = self._now()
        failed = [Outcome(number, "error", error, now, now) for number, _ in jobs if number in host.emitted]
        jobs = [job for job in jobs if job[0] not in host.emitted]
        if len(jobs) == 1 and (is_sure or jobs[0][0] in self._suspects):
            failed.append(Outcome(jobs[0][0], "error", error, now, now))
        elif jobs:
            jobs.sort(key=_number)
            middle = len(jobs) // 2
            self._groups.extend(group for group in (jobs[:middle], jobs[middle:]) if group)
        self._suspects.update(number for number, _ in jobs)
        for outcome in failed:
            self._suspects.discard(outcome.number)
        self._after(host, failed, 0.0)


def _number(job: tuple[int, object]) -> int:
    return job[0]


def _load(host: Host) -> float:
    return len(host.sent) / max(1, host.told)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
