"""`crawl` on a server of the user's: the same page again and again, asked for under every model."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import math
import statistics
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from overlapped.compare.base import BadAnswerError, ComparisonError, Crawl
from overlapped.compare.comparison import Comparison
from overlapped.compare.runner import check_same
from overlapped.compare.wire import get
from overlapped.compare.workloads.crawl import notes, part, rows_of, run_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from overlapped.compare.catalog import Model
    from overlapped.compare.workloads.crawl import Wanted

PROBES = 3
"""Requests made one at a time before anything is compared: does it answer, how late, always the same?"""
PROBE_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Probe:
    """What the page said before the comparison.

    Attributes:
        seconds: how late each answer was.
        digests: of each answer's bytes.
    """

    seconds: list[float]
    digests: list[str]


def checked_url(url: str) -> str:
    """`url`, if it is one that can be fetched.

    Raises:
        ComparisonError: it is none.
    """
    problem = ComparisonError(f"{url!r} is no address of a page; write http://host/path", is_usage=True)
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        raise problem from None
    if not is_good or not url.isascii() or not url.isprintable() or " " in url:
        raise problem
    if "@" in parts.netloc:
        raise ComparisonError(
            f"the address of {parts.hostname} holds a user's name: not every model sends one, and the table would show "
            "it; write the address of a page that needs none",
            is_usage=True,
        )
    return url


def is_here(url: str) -> bool:
    """Whether the server is on this machine, as far as its name tells."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def probe(url: str) -> Probe:
    """Fetch the page a few times, one at a time.

    Raises:
        ComparisonError: it cannot be fetched.
    """
    work = Crawl([url], 1)
    kind = http.client.HTTPSConnection if work.is_tls else http.client.HTTPConnection
    seconds, digests = [], []
    with closing(kind(work.host, work.port, timeout=PROBE_LIMIT_S)) as connection:
        for _ in range(PROBES):
            start = time.perf_counter()
            try:
                body = get(connection, work.paths[0])
            except (OSError, http.client.HTTPException) as error:
                raise ComparisonError(
                    f"{url} cannot be fetched: {type(error).__name__}: {error}", is_usage=True
                ) from error
            except BadAnswerError as error:
                raise ComparisonError(f"{url} is not compared: {error}; it must be 200", is_usage=True) from error
            seconds.append(time.perf_counter() - start)
            digests.append(hashlib.sha256(body).hexdigest()[:16])
    return Probe(seconds[1:], digests)  # the first one also made the connection


def total(models: Sequence[Model], wanted: Wanted) -> int:
    """How many requests the comparison sends at most."""
    return PROBES + wanted.repeat * wanted.requests * len(models)


def compare(
    models: Sequence[Model], url: str, wanted: Wanted, on_run: Callable[[str], None] = lambda _: None
) -> Comparison:
    """All models on one page of the user's; `on_run` is told what is run next.

    Raises:
        ComparisonError: the page cannot be fetched, a model failed or hangs, or brought other bytes.
    """
    said = probe(url)
    delay_s = statistics.median(said.seconds)
    wanted = replace(wanted, delay_s=delay_s)
    is_same = len(set(said.digests)) == 1
    rows = rows_of(models, wanted)
    for row in rows:
        if not row.model.about.has_tls and url.startswith("https:"):
            row.status, row.reason = "not run", "this lesson speaks plain HTTP, no TLS"
    run_rows(rows, [url] * wanted.requests, wanted, on_run)
    if is_same:
        check_same(rows, [said.digests[0]] * wanted.requests)
    made = Comparison(
        workload="crawl",
        subject=f"{wanted.requests:,} requests to {url}, {wanted.concurrency} in flight where a model needs the number",
        noun="request",
        count=wanted.requests,
        concurrency=wanted.concurrency,
        delay_s=delay_s,
        bound_s=math.nan,
        rows=rows,
    )
    made.notes.extend(part(made))
    made.notes.append(f"one at a time the page came after {delay_s * 1e3:.3g} ms (measured before the comparison)")
    if not is_same:
        made.notes.append("the page is never the same twice, so only its status was checked, not its bytes")
    made.notes.extend(notes(made))
    return made
