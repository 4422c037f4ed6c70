"""A host of calls: what its lane says of it, what it has to know, and how its run sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from overlapped._engine.parcels import BY_NAME, PackedError, Packing, unpack_error
from overlapped._engine.ports import Outcome
from overlapped._engine.trays import DROPPED, Spread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from overlapped._engine.frames import BlockingWire
    from overlapped._engine.links import Link, OnFrame, OnGone
    from overlapped._engine.serving import Task

    End = Callable[[], Coroutine[Any, Any, None]]

OK: Final = 0
ERROR: Final = 1
PART: Final = 2
END: Final = 3  # of a generator, whose results went before
MANY: Final = 4  # all results of one call at once
SPOILED: Final = 5  # a part that cannot travel; its generator goes on

GOES_ON: Final = (PART, SPOILED)
"""What is told of a call before its end."""


Entry = tuple[int, int, float, float, int]
"""Of an answer: number, code, start, end, calls in flight at the start. The values travel beside it."""


class HostLane(Protocol):
    """What a lane whose calls run in hosts says of itself: the names that its module has."""

    KINDS: frozenset[str]
    """Kinds of functions that it takes."""

    PACKING: Packing
    """How functions, items and results travel."""

    def refuse_here(self, at: str) -> None:
        """Raise UsageError where this lane cannot work: the platform, a package that is missing."""

    def most_hosts(self) -> int:
        """Hosts of one stage at most."""
        ...

    def is_single(self, kind: str) -> bool:
        """True if a host makes one call at a time, for that kind of function."""
        ...

    def can_cancel(self, kind: str) -> bool:
        """True if a call that runs can be ended, for that kind of function."""
        ...

    async def begin(self) -> End | None:
        """Make ready whatever hosts need; what is given back takes it down when all of them have gone."""
        ...

    def launch(self, on_frame: OnFrame, on_gone: OnGone) -> Link:
        """Start a host. It is told of every frame, and at last how the host ended. Called on the loop."""
        ...

    def serve(self, wire: BlockingWire, task: Task) -> None:
        """In the host: make calls until the run says that it is the end."""


class Work(NamedTuple):
    """What a host has to know before its first job. The functions are packed by `parcels`.

    Attributes:
        fn: the function, packed.
        factories: the resources it wants: (name, packed factory).
        name, verb, kind, many: of the stage, as `CrewSpec` and `Described` say.
        wants: the function's other parameters, for messages.
        main: where `__main__` is.
        argv: `sys.argv`.
        own: those of the resources that each worker of a host opens for itself.
        packing: how values come back.
    """

    fn: bytes
    factories: tuple[tuple[str, bytes], ...]
    name: str
    verb: str
    kind: str
    many: bool
    main: tuple[str, str]
    argv: list[str]
    own: tuple[str, ...] = ()
    packing: Packing = BY_NAME


class Host:
    """One host, as its port sees it."""

    __slots__ = (
        "cancelled",
        "emitted",
        "heard_s",
        "in_flight",
        "is_alone",
        "is_condemned",
        "is_held",
        "is_ready",
        "is_reserved",
        "is_silent",
        "link",
        "may_run",
        "place",
        "sent",
        "spoiled",
        "started",
        "told",
        "unheard",
    )

    link: Link

    def __init__(self, place: int) -> None:
        self.place = place  # its calls' slot in the account, if it makes one at a time; else -1
        self.is_ready = False
        self.is_reserved = False  # to be emptied for a group of suspects
        self.is_alone = False  # it has such a group, and gets nothing else
        self.is_condemned = False  # killed by us, for a call that did not stop
        self.is_silent = False  # and for one that it could not tell of
        self.is_held = False  # one of its calls does not give way, and it can begin no other
        self.told = 0  # calls that it may make at once
        self.may_run = 0  # calls that it may be making: more than told for a while after that was lowered
        self.heard_s = 0.0  # when it last said something, or got work while it had none
        self.in_flight = 0  # when its latest call started
        self.sent: dict[int, object] = {}  # the jobs it has not answered
        self.started: dict[int, float] = {}  # those known to run, on our clock
        self.emitted: set[int] = set()  # those that have given a part of their results
        self.spoiled: dict[int, tuple[BaseException, bool]] = {}  # those that lost a part: why, and is it sure
        self.cancelled: set[int] = set()
        self.unheard: set[int] = set()  # cancellations that the host has not confirmed

    def condemn(self) -> None:
        """Kill it: its end is no accident."""
        self.is_condemned = True
        self.link.kill()

    def outcome(  # noqa: PLR0917 - called for every item
        self, verb: str, entry: Entry, value: Any, offset_s: float, cpu_s: float, in_flight: int
    ) -> Outcome | None:
        """What the host says of one of its jobs, on our clock; None if that has been answered before."""
        number, code, started_s, ended_s, self.in_flight = entry
        if number not in self.sent:
            return None
        if code == PART:
            self.emitted.add(number)
            return Outcome(number, "part", value)
        item = self.sent.pop(number)
        if self.started:
            self.started.pop(number, None)
        account = (started_s + offset_s, ended_s + offset_s, cpu_s, in_flight, self.place)
        if code == OK:
            if verb == "tap":
                value = item
            elif verb == "filter":
                value = item if value else DROPPED
        elif code == ERROR:
            return Outcome(number, "error", unpack_error(PackedError(*value), self.link.place), *account)
        else:
            value = Spread(value, DROPPED) if code == MANY else DROPPED
        return Outcome(number, "ok", value, *account)
