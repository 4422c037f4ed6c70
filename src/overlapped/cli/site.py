"""The demo's site: Python's standard library on 127.0.0.1, each answer late, in a process of its own.

`python -m overlapped.cli.site --delay 0.1` prints its port and serves until its stdin ends, so it
cannot outlive the one who started it. `/` lists the paths of all pages, one a line.
"""

from __future__ import annotations

import argparse
import asyncio
import sysconfig
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from overlapped.cli.say import ExitCode, Problem
from overlapped.compare.apart import running, stdin_ended
from overlapped.compare.base import ComparisonError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_PAGES = 400
"""Pages served at most: 40 s of waiting one at a time at 100 ms each."""
_ASIDE = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"})


def library_files() -> list[Path]:
    """Up to `MOST_PAGES` source files of the standard library, the outermost modules first."""
    root = Path(sysconfig.get_paths()["stdlib"])
    inside = [path for path in root.rglob("*.py") if not _ASIDE & set(path.relative_to(root).parts)]
    inside.sort(key=lambda path: (len(path.relative_to(root).parts), path.as_posix()))
    return [path for path in inside if path.is_file()][:MOST_PAGES]


async def serve(delay_s: float) -> None:
    """Serve the pages, each `delay_s` late, until stdin ends."""
    import tornado.web

    root = Path(sysconfig.get_paths()["stdlib"])
    pages = {f"/{path.relative_to(root).as_posix()}": path.read_bytes() for path in library_files()}
    pages["/"] = "".join(f"{path}\n" for path in pages).encode()

    class PageHandler(tornado.web.RequestHandler):
        """Answers a path with its page."""

        async def get(self) -> None:
            await asyncio.sleep(delay_s)
            page = pages.get(self.request.path)
            if page is None:
                raise tornado.web.HTTPError(404)
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(page)

    application = tornado.web.Application([(r"/.*", PageHandler)], log_function=lambda handler: None)
    from tornado.netutil import bind_sockets

    sockets = bind_sockets(0, "127.0.0.1", backlog=1024)
    from tornado.httpserver import HTTPServer

    server = HTTPServer(application)
    server.add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await stdin_ended()
    server.stop()


@contextmanager
def running_site(delay_s: float) -> Iterator[str]:
    """A site in a process of its own, gone at the end of the scope; gives its address.

    Raises:
        Problem: it did not start.
    """
    try:
        with running("overlapped.cli.site", "--delay", str(delay_s), what="the demo's site") as port:
            yield f"http://127.0.0.1:{port}"
    except ComparisonError as error:
        raise Problem(str(error), ExitCode.FAILED) from error


def _main() -> None:
    parser = argparse.ArgumentParser(description="The demo's site.", allow_abbrev=False)
    parser.add_argument("--delay", type=float, default=0.1, help="s before each answer")
    asyncio.run(serve(parser.parse_args().delay))


if __name__ == "__main__":
    _main()
