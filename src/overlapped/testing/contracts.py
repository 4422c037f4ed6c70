"""What every sink and every controller must do, as checks that anyone's own can be put through."""

from __future__ import annotations

import os
import random
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from overlapped.control.base import Controller, ControllerSpec, Outcome, Sample
from overlapped.sinks.base import AppendOnly, Sink, Transactional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overlapped.sinks.base import Writer

SAMPLES = 3_000
"""How many finished calls each of a controller's checks feeds it: past any ramp."""

LONGEST_WRITE_S = 60.0
"""When a sink's check gives its thread up."""


def check_sink(
    make_sink: Callable[[Path], Sink],
    read_back: Callable[[Path], Sequence[object]],
    *,
    items: Sequence[object] = ({"n": 1, "text": "a"}, {"n": 2, "text": "é\n"}, {"n": 3, "text": ""}),
    unwritable: object = object(),
) -> None:
    """Put a sink through everything a run does with it; raises AssertionError when it falls short.

    Args:
        make_sink: makes a sink that writes to a fresh place; it gets a new, empty folder.
        read_back: everything that stands in that place, in order; it gets the same folder.
        items: at least three items that the sink can write, as `read_back` gives them.
        unwritable: an item that it cannot write.

    Example:
        >>> import json
        >>> from overlapped.sinks.jsonl import Jsonl
        >>> check_sink(
        ...     lambda folder: Jsonl(folder / "out"),
        ...     lambda folder: [json.loads(line) for line in (folder / "out").read_bytes().splitlines()],
        ... )
    """
    _demand(len(items) >= 3, "check_sink needs at least three items")
    expected = list(items)

    def scenario(use: Callable[[Sink], None], want: list[object], says: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            sink = make_sink(Path(folder))
            _check_description(sink)
            before = _open_files()
            _on_one_thread(lambda: use(sink))
            left = _open_files() - before
            _demand(not left, f"{sink.describe()} left open after close: {', '.join(sorted(left))}")
            got = list(read_back(Path(folder))) if want else []
            _demand(got == want, f"{sink.describe()}: {says}; wrote {want!r}, read back {got!r}")

    scenario(lambda sink: _write(sink, []), [], "a run without items")
    scenario(lambda sink: _write(sink, [[], expected[:2], [], expected[2:]]), expected, "batches come in order")
    scenario(
        lambda sink: _write(sink, [expected[:2], expected[2:]], ok=False),
        expected,
        "what was written stays when the run fails",
    )
    scenario(lambda sink: _check_refusal(sink, expected, unwritable), expected, "good items stay")
    scenario(lambda sink: _check_shape(sink, expected), expected, "positions and transactions")


def _demand(holds: bool, says: str) -> None:
    """As `assert`, which python -O leaves out."""
    if not holds:
        raise AssertionError(says)


def _check_description(sink: Sink) -> None:
    _demand(isinstance(sink, Sink), f"{sink!r} has no describe() or no open()")
    text = sink.describe()
    _demand(bool(text), f"describe() of {sink!r} says nothing")
    _demand("\n" not in text, f"describe() must be one line, got {text!r}")


def _write(sink: Sink, batches: Sequence[Sequence[object]], *, ok: bool = True) -> None:
    writer = sink.open()
    try:
        for batch in batches:
            refused = writer.write(batch)
            _demand(refused == {}, f"{sink.describe()} refused good items: {refused!r}")
    finally:
        writer.close(ok)


def _check_refusal(sink: Sink, items: Sequence[object], unwritable: object) -> None:
    """A bad item is named, costs no other item of its batch, and no later batch."""
    writer = sink.open()
    try:
        for batch, bad in (([unwritable], [0]), ([items[0], unwritable, items[1]], [1]), (items[2:], [])):
            refused = writer.write(batch)
            _demand(list(refused) == bad, f"{sink.describe()} must refuse exactly {bad} of {batch!r}: {refused!r}")
            for error in refused.values():
                kind = type(unwritable).__name__
                _demand(isinstance(error, Exception), f"a refusal must be an Exception, got {error!r}")
                _demand(kind in str(error), f"a refusal must name the item's type {kind}: {error}")
    finally:
        writer.close(ok=True)


def _check_shape(sink: Sink, items: Sequence[object]) -> None:
    """What a journal relies on, if the writer offers it."""
    writer = sink.open()
    try:
        _check_rollback(sink, writer, items)
        start = writer.position() if isinstance(writer, AppendOnly) else 0
        writer.write(items)
        if isinstance(writer, AppendOnly):
            end = writer.position()
            _demand(end > start, f"position() of {sink.describe()} did not grow: {start} -> {end}")
            _demand(writer.position() == end, f"position() of {sink.describe()} changed without a write")
    finally:
        writer.close(ok=True)


def _check_rollback(sink: Sink, writer: Writer, items: Sequence[object]) -> None:
    if not isinstance(writer, Transactional):
        return

    class Stop(Exception):
        pass

    try:
        with writer.transaction():
            writer.write(items)
            raise Stop
    except Stop:
        return
    raise AssertionError(f"transaction() of {sink.describe()} swallows exceptions")


def _on_one_thread(use: Callable[[], None]) -> None:
    """Run everything on one thread that is not the caller's, as a run does."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            use()
        except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
            errors.append(error)

    thread = threading.Thread(target=body, daemon=True, name="check_sink")
    thread.start()
    thread.join(LONGEST_WRITE_S)
    _demand(not thread.is_alive(), f"the sink did not end within {LONGEST_WRITE_S:g} s")
    if errors:
        raise errors[0]


def _open_files() -> set[str]:
    for folder in ("/proc/self/fd", "/dev/fd"):
        if os.path.isdir(folder):
            return {name for name in os.listdir(folder) if os.path.exists(f"{folder}/{name}")}
    return set()


def check_controller(make_spec: Callable[[], ControllerSpec], *, most: int | None = None) -> None:
    """Put a controller through calm, storm, silence and noise; raises AssertionError when it falls short.

    Args:
        make_spec: makes the spec, equal each time.
        most: the largest limit that it may ever choose, if it has one.

    Example:
        >>> from overlapped.control.fixed import Fixed
        >>> check_controller(lambda: Fixed(5), most=5)
    """
    spec = make_spec()
    _demand(isinstance(spec, ControllerSpec), f"{spec!r} has no controller()")
    for name in ("calm", "storm", "noise", "no time at all", "recovery"):
        first = _feed(spec.controller(), name, most)
        _demand(first == _feed(spec.controller(), name, most), f"two controllers of one spec differ in {name}")
        _demand(first == _feed(make_spec().controller(), name, most), f"two equal specs differ in {name}")
    _check_holds_when_not_binding(make_spec, most)


def _feed(controller: Controller, name: str, most: int | None) -> list[tuple[int, str]]:
    """Every limit with its reason, for one of the kinds of weather."""
    seen = [_checked(controller, most)]
    for sample in _weather(controller, name):
        limit = controller.finished(sample)
        seen.append(_checked(controller, most))
        _demand(limit == seen[-1][0], f"finished() returned {limit}, but limit is {seen[-1][0]}")
    return seen


def _checked(controller: Controller, most: int | None) -> tuple[int, str]:
    limit, reason = controller.limit, controller.reason
    _demand(type(limit) is int, f"a limit must be an int, got {limit!r}")
    _demand(limit >= 1, f"a limit below 1 makes no progress: {limit} ({reason})")
    _demand(most is None or limit <= most, f"limit {limit} is above the most allowed, {most} ({reason})")
    _demand(isinstance(reason, str), f"a reason must be text, got {reason!r}")
    _demand(bool(reason), f"limit {limit} has no reason")
    return limit, reason


def _weather(controller: Controller, name: str) -> Iterator[Sample]:
    """Finished calls of a stage that always has the limit's number of calls in flight."""
    chance = random.Random(1)  # noqa: S311 - the same series each time is the point
    now_s = 0.0
    for number in range(SAMPLES):
        limit = controller.limit
        service_s = 0.0 if name == "no time at all" else 0.1
        outcome: Outcome = "ok"
        if name == "storm" or (name == "recovery" and number < SAMPLES // 3):
            outcome = "drop"
        elif name == "noise":
            service_s = chance.lognormvariate(-3, 2)
            outcome = chance.choice(("ok", "ok", "ok", "ignore", "drop"))
        now_s += service_s / limit
        binding = name != "noise" or chance.random() < 0.8
        yield Sample(now_s, max(0.0, now_s - service_s), outcome, limit, binding)


def _check_holds_when_not_binding(make_spec: Callable[[], ControllerSpec], most: int | None) -> None:
    """Fast answers while nothing wanted more slots say nothing about more slots."""
    for warm_up in (0, SAMPLES):
        controller = make_spec().controller()
        highest = controller.limit
        now_s = 0.0
        for number in range(warm_up + SAMPLES):
            binding = number < warm_up
            in_flight = controller.limit if binding else 1
            now_s += 0.1 / in_flight
            controller.finished(Sample(now_s, max(0.0, now_s - 0.1), "ok", in_flight, binding))
            limit, reason = _checked(controller, most)
            _demand(
                binding or limit <= highest,
                f"the limit grew from {highest} to {limit} ({reason}) on samples that are not binding",
            )
            highest = max(highest, limit)
