"""One model, once, in this process: what is to be done comes as JSON on stdin, what was measured goes to stdout.

Nothing is imported here before the model's `first` line has run, and the clock starts after its imports.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from overlapped.compare.base import INSTALL, BadAnswerError, Crawl, Files, NotRunError, Usage, Work

if TYPE_CHECKING:
    from types import ModuleType


def main() -> int:
    """Read the order, run the model, tell how it went."""
    order = json.loads(sys.stdin.read())
    _end_with_parent()
    try:
        told = run(order)
    except NotRunError as reason:
        told = {"status": "not run", "reason": str(reason)}
    except BadAnswerError as error:
        told = {"status": "failed", "reason": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever a model raises is told by the one who started it
        told = {"status": "failed", "reason": _said(error)}
    from overlapped.report.whole import write_stdout  # not before: a model's memory is not ours

    write_stdout(json.dumps(told) + "\n")
    return 0


def run(order: dict[str, Any]) -> dict[str, Any]:
    """Run a model on its work, and say what it took."""
    module = importlib.import_module(order["module"])
    for package in order["imports"]:
        try:
            importlib.import_module(package)
        except ImportError:
            name = package.partition(".")[0]
            raise NotRunError(f"{name} is not installed: {INSTALL}") from None
    work = made(order, module)
    gc.collect()
    before = Usage.now()
    work.start()
    getattr(module, order["function"])(work)
    elapsed_s = time.perf_counter() - work.start_s
    used = Usage.now()
    if missing := sum(result is None for result in work.results):
        raise RuntimeError(f"it ended with {missing} of {len(work)} results missing")
    return {
        "status": "ok",
        "seconds": elapsed_s,
        "cpu_s": used.cpu_s - before.cpu_s,
        "voluntary": used.voluntary - before.voluntary,
        "involuntary": used.involuntary - before.involuntary,
        "vain_asks": work.vain_asks,
        "found": work.found,
        "peak_rss_bytes": peak_rss_bytes(),
        "digests": [hashlib.sha256(result or b"").hexdigest()[:16] for result in work.results],
        "began_s": [round(at, 5) for at in work.began_s],
        "ended_s": [round(at, 5) for at in work.ended_s],
        "notes": work.notes,
        "figures": work.figures,
    }


def made(order: dict[str, Any], module: ModuleType) -> Work:
    """The work that was ordered: of a kind that all models know, or that its own module does."""
    kind: type[Work] = {"Crawl": Crawl, "Files": Files}.get(order["kind"]) or getattr(module, order["kind"])
    return kind(**order["work"])


def peak_rss_bytes() -> int:
    """Largest resident memory of this process so far.

    Not `ru_maxrss` where /proc tells: that one starts with the memory of the process that started this one.
    """
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        try:
            import resource
        except ImportError:
            return 0
        peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _end_with_parent() -> None:
    """Linux ends this process with the one that started it; elsewhere it ends when its work is done."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        try:
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        except (OSError, AttributeError):
            pass  # a C library without it: then as elsewhere


def _said(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
