"""The child's side: run one test body, then look at what it has left."""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import gc
import importlib
import importlib.machinery
import inspect
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from tests.faults.harness import BUSY_KEY, OK, TELL_S, Case, combinations, in_words

if TYPE_CHECKING:
    from collections.abc import Callable

GRACE_S = 2.0  # after a bare break the run is taken down by others, soon


class _WithAsserts(importlib.machinery.SourceFileLoader):
    """Under -O too, the tests' own assert statements are what they are for."""

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return compile(self.get_data(path), path, "exec", optimize=0, dont_inherit=True)


class _Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> Any:
        if not fullname.startswith("tests."):
            return None
        spec = super().find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _WithAsserts(spec.loader.name, spec.loader.path)
        return spec


def main() -> None:
    place, params, where = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # debug mode tells of each slow callback
    faulthandler.dump_traceback_later(TELL_S * float(os.environ.get(BUSY_KEY, "1")))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    if sys.flags.optimize:
        sys.meta_path.insert(0, _Finder)
    if not where["has_uvloop"]:
        sys.modules["uvloop"] = None  # type: ignore[assignment]  # the documented way to make an import fail
    case = find(place)
    _open_what_stays_open()
    before = descriptors()
    is_fine = True
    for chosen in combinations(case.together):
        one, of = case, params | chosen
        if "of" in chosen:  # a tour: all combinations of another case, here
            one, of = find(chosen["of"][0]), chosen["of"][1]
        call = functools.partial(_run, one.fn, of, where)
        is_fine &= _run_one(call, chosen, where, before)
    faulthandler.cancel_dump_traceback_later()
    if not is_fine:
        sys.exit(1)
    print(OK)


def find(place: str) -> Case:
    """The case `module:function`."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name).case  # type: ignore[no-any-return]  # `child` made it


def _run_one(call: Callable[[], None], chosen: dict[str, Any], where: dict[str, Any], before: set[str]) -> bool:
    """One combination; others are still run after one that fails."""
    if chosen:
        print(in_words(chosen), flush=True)  # so that whoever hangs has a name
    try:
        if where["in_thread"]:
            _in_thread(call)
        else:
            call()
        left = what_is_left(before)
        assert not left, f"LEFT OVER: {left}"
    except Exception:  # noqa: BLE001 - the next combination is still to be run
        print(f"--- {in_words(chosen)}", file=sys.stderr)
        traceback.print_exc()
        return False
    return True


def _run(body: Callable[..., Any], params: dict[str, Any], where: dict[str, Any]) -> None:
    if not inspect.iscoroutinefunction(body):
        body(**params)
        return

    async def checked() -> None:
        if where["eager"]:
            loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # 3.12
        await body(**params)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        deadline = time.monotonic() + GRACE_S
        while tasks and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
            tasks = {task for task in tasks if not task.done()}
        assert not tasks, f"tasks left: {tasks}"

    with asyncio.Runner(loop_factory=_factory(where["loop"])) as runner:
        loop = runner.get_loop()
        runner.run(checked())


def _factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


def _in_thread(call: Callable[[], None]) -> None:
    raised: list[BaseException] = []

    def target() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _open_what_stays_open() -> None:
    """The first loop of a process opens descriptors once for all (libuv's pipe for signals)."""
    from overlapped._engine.loop import new_loop

    for make in (asyncio.new_event_loop, new_loop):
        with asyncio.Runner(loop_factory=make) as runner:
            runner.get_loop()


def descriptors() -> set[str]:
    """What is open."""
    found: set[str] = set()
    for number in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            found.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")
        except OSError:
            continue
    return found


def our_threads() -> list[str]:
    """Threads of the library that are alive."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("overlapped"))


def what_is_left(before: set[str]) -> str:
    """Threads and descriptors that did not go within `GRACE_S`; "" if none."""
    gc.collect()
    deadline = time.monotonic() + GRACE_S
    while True:
        left = [*our_threads(), *sorted(descriptors() - before)]
        if not left or time.monotonic() > deadline:
            return ", ".join(left)
        time.sleep(0.005)


if __name__ == "__main__":
    main()
