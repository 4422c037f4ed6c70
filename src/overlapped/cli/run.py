"""`overlapped run JOB.py[:flow]`: the flow runs in the main thread; its results go to stdout."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from overlapped._engine.loop import new_loop
from overlapped.cli.job import call_users, left_with, load_job
from overlapped.cli.lines import JsonLines, OutputLost
from overlapped.cli.progress import make_view
from overlapped.cli.say import (
    ExitCode,
    Problem,
    prints_on_stderr,
    say,
    traceback_text,
    users_place,
    write_stderr,
    write_stdout,
)
from overlapped.cli.signals import Signals
from overlapped.cli.status import status_on_signal
from overlapped.report.plain import plain, plain_error
from overlapped.report.text import counted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from overlapped import Flow, Report
    from overlapped.cli.common import Common
    from overlapped.cli.progress import View
    from overlapped.record import RunRecord
    from overlapped.report.dashboard import Dashboard

OnFailure = Literal["keep", "raise"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        report: what it did; None if it did not start.
        error: what ended it, or None.
    """

    report: Report | None
    error: BaseException | None


def run_job(
    target: str,
    args: Sequence[str],
    common: Common,
    *,
    on_failure: str,
    max_failures: int | None,
    report: str | None = None,
    trace: str | None = None,
    dashboard: bool | int = False,
) -> int:
    """Load the file, run its flow and return the exit code."""
    save = _saver(report, trace)
    with _live_page(dashboard, report) as page, Signals() as signals:
        with prints_on_stderr() if common.json else nullcontext(), make_view(common.view, target) as view:
            flow = load_job(target, args)
            call_users(target, flow.check)
            if common.verbose:
                with redirect_stdout(sys.stderr):
                    flow.explain()
            outcome = execute(
                flow,
                view=view,
                signals=signals,
                on_failure=cast("OnFailure", on_failure),
                max_failures=max_failures,
                lines=not common.json and not flow.has_sink,
                page=page,
            )
        signals.moment = "after the run had ended"
        code, error = conclude(outcome, signals, common)
        if outcome.report is not None and not (saved := _saved(save, outcome.report)):
            code, error = code or ExitCode.FAILED, error or saved.problem
        if common.json:
            write_stdout(json.dumps({"exit_code": int(code), "error": error, "run": told(outcome.report)}))
        return code


class Saved(NamedTuple):
    """Whether the files of a run were written; false if not."""

    problem: str | None

    def __bool__(self) -> bool:
        return self.problem is None


def _saver(report: str | None, trace: str | None) -> Callable[[Report], None]:
    """What writes the files that were asked for; that they can be written is found out first."""
    from overlapped import UsageError
    from overlapped.report import files

    try:
        return files.saver(report, trace, names=("--report", "--trace"))
    except UsageError as error:
        raise Problem(str(error)) from error


def _live_page(port: bool | int, report: str | None) -> AbstractContextManager[Dashboard | None]:
    """The live page that was asked for; that its port can be had is found out first."""
    if port is False:
        return nullcontext()
    from overlapped import UsageError
    from overlapped.report.dashboard import Dashboard

    name = "--dashboard" if port is True else f"--dashboard={port}"
    try:
        return Dashboard(None if port is True else port, name=name, instead="--dashboard", report=report)
    except UsageError as error:
        raise Problem(str(error)) from error


def _saved(save: Callable[[Report], None], report: Report) -> Saved:
    """Write them; a full disk is no reason to hide how the run ended."""
    try:
        save(report)
    except OSError as error:
        problem = f"the report or trace could not be written: {error}"
        say(problem)
        return Saved(problem)
    return Saved(None)


def told(report: Report | None) -> dict[str, Any] | None:
    """A report as plain data, if there is one."""
    return None if report is None else report.to_dict()


def execute(
    flow: Flow[Any],
    *,
    view: View,
    signals: Signals,
    on_failure: OnFailure,
    max_failures: int | None,
    lines: bool,
    page: Dashboard | None = None,
) -> Outcome:
    """Run a flow to its end in this thread; signals drain it, progress is shown."""
    opened: list[Any] = []
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            delivery = _deliver(flow, view, signals, on_failure, max_failures, opened=opened, lines=lines, page=page)
            return runner.run(delivery)
    except BaseException as left:  # the job's own: sys.exit, KeyboardInterrupt, what else is no Exception
        if signals.code and isinstance(left, KeyboardInterrupt):
            raise  # a signal while nothing was attached
        return Outcome(opened[0].report if opened else None, left)


async def _deliver(
    flow: Flow[Any],
    view: View,
    signals: Signals,
    on_failure: OnFailure,
    max_failures: int | None,
    *,
    opened: list[Any],
    lines: bool,
    page: Dashboard | None,
) -> Outcome:
    """Take all results, in one task that signals can cancel; `opened` gets what tells of the run, however it ends."""
    out = JsonLines() if lines else None
    items: Any = None
    try:
        async with flow.open(on_failure=on_failure, max_failures=max_failures) as items:
            opened.append(items)
            if page is not None:
                page.show(lambda: items.report.record)
            with _attached(signals, items), _following(view, items.stats), status_on_signal(items):
                async for item in items:
                    if out is not None:
                        await out.write(item)
        error: BaseException | None = None
    except asyncio.CancelledError as cancelled:
        if not signals.cancelled:
            raise
        error = cancelled
    except Exception as failure:  # noqa: BLE001 - whatever ended the run is told by `conclude`
        error = failure
    ends: list[Callable[[], Awaitable[None]]] = [] if page is None else [page.finish]
    if out is not None and not signals.cancelled and not isinstance(error, OutputLost):
        ends.insert(0, out.finish)  # what was delivered before an error is written, too
    for end in ends:
        try:
            with _attached(signals, items):
                await end()
        except (OutputLost, asyncio.CancelledError) as lost:
            error = error or lost
    return Outcome(items.report if items is not None else getattr(error, "report", None), error)


@contextmanager
def _attached(signals: Signals, items: Any) -> Iterator[None]:
    """While it lasts, signals drain and cancel this task."""
    task = asyncio.current_task()
    if task is not None and items is not None:
        signals.attach(asyncio.get_running_loop(), task, items)
    try:
        yield
    finally:
        signals.detach()


@contextmanager
def _following(view: View, stats: Callable[[], RunRecord]) -> Iterator[None]:
    """Show a snapshot every `view.every_s` seconds; one timer, nothing per item."""
    if not view.every_s:
        yield
        return
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def tick() -> None:
        nonlocal timer
        view.show(stats())
        timer = loop.call_later(view.every_s, tick)

    timer = loop.call_later(view.every_s, tick)
    with ExitStack() as stack:
        stack.callback(view.clear)
        stack.callback(lambda: timer.cancel())  # noqa: PLW0108 - the latest timer, not this one
        yield


def conclude(outcome: Outcome, signals: Signals, common: Common, *, summary: bool = True) -> tuple[int, str | None]:
    """Tell how the run ended: their traceback, the summary, the cause in the last line.

    Returns:
        The exit code, and the last line if it is about an error.
    """
    error = outcome.error
    if isinstance(error, OutputLost) and isinstance(error.__cause__, BrokenPipeError):
        return ExitCode.PIPE, None
    code, message = _verdict(outcome, signals)
    untraced = asyncio.CancelledError | OutputLost | SystemExit
    if error is not None and not isinstance(error, untraced) and not _is_usage(error):
        write_stderr(traceback_text(error, ours=common.verbose))
    if summary and outcome.report is not None and not common.quiet:
        write_stderr(f"{outcome.report}\n")
    if message is not None:
        say(message)
    return code, message


def _verdict(outcome: Outcome, signals: Signals) -> tuple[int, str | None]:
    """The exit code and the sentence for the way a run ended."""
    report, error = outcome.report, outcome.error
    done = f"{_results(report)} delivered" if report is not None else "nothing was delivered"
    if signals.code:
        if error is not None and not isinstance(error, asyncio.CancelledError):
            return signals.code, f"stopped early, and then: {_cause(error)}"
        how = "cancelled" if signals.cancelled else "stopped early; everything in flight was finished"
        return signals.code, f"{how}; {done}"
    if isinstance(error, OutputLost):
        return (
            ExitCode.FAILED,
            f"writing results to stdout: {error.__cause__}; the rest of the results is lost",
        )
    if isinstance(error, SystemExit):
        code, message = left_with(error, users_place(error) or "the job", done, text_code=ExitCode.FAILED)
        return code or ExitCode.FAILED, message
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED, f"{_cause(error)}; {done}"
    if error is not None:
        return (ExitCode.USAGE if report is None and _is_usage(error) else ExitCode.FAILED), _cause(error)
    if report is not None and report.cleanup_errors:
        return (
            ExitCode.FAILED,
            f"all items are done, but closing the run failed: {plain_error(report.cleanup_errors[0])}",
        )
    if report is not None and report.failed:
        return ExitCode.ITEMS_FAILED, f"{counted(report.failed, 'item')} failed{_first(report)}"
    return ExitCode.OK, None


def _results(report: Report) -> str:
    return f"{counted(report.items, 'result')} {'was' if report.items == 1 else 'were'}"


def _first(report: Report) -> str:
    if not report.failures:
        return ""
    first = report.failures[0]
    return f"; the first was {plain(first.item)} in {first.stage}: {plain_error(first.error)}"


def _is_usage(error: BaseException) -> bool:
    from overlapped import UsageError

    return isinstance(error, UsageError)


def _cause(error: BaseException) -> str:
    """What ended the run, in one line: place, exception, and the note that names stage and item."""
    from overlapped import OverlappedError

    place = users_place(error)
    start = f"{place}: " if place else ""
    what = str(error) if isinstance(error, OverlappedError) else plain_error(error)
    notes = getattr(error, "__notes__", [])
    note = f" ({notes[0].removeprefix('overlapped: ')})" if notes else ""
    return f"{start}{what}{note}" + ("" if note or place else " (-v shows where)")
