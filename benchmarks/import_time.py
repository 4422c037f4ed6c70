"""What `import overlapped` costs beyond `import asyncio`, in fresh processes.

    python benchmarks/import_time.py [--smoke] [--json FILE]

Fails if it brings in anything that is not of the standard library.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import NamedTuple

from measure import Bar, judge, machine, table

LIMIT_MS = 15.0
LARGEST = 12  # parts shown

TIMED = """
import time
before = time.process_time()
import asyncio
between = time.process_time()
import overlapped
print(between - before, time.process_time() - between)
"""
MODULES = "import asyncio, sys; before = set(sys.modules); import overlapped; print(*sorted(set(sys.modules) - before))"


class Part(NamedTuple):
    """One line of `-X importtime`."""

    name: str
    own_ms: float
    with_parts_ms: float


def python(*args: str) -> subprocess.CompletedProcess[str]:
    # Installed packages have their byte code; without it this would measure the compiler.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, *args]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)  # noqa: S603 - our own lines


def times_ms(rounds: int) -> tuple[float, float]:
    """Medians of asyncio, and of overlapped after it, CPU ms."""
    pairs = [tuple(map(float, python("-c", TIMED).stdout.split())) for _ in range(rounds)]
    return statistics.median(p[0] for p in pairs) * 1e3, statistics.median(p[1] for p in pairs) * 1e3


def largest_parts() -> list[Part]:
    """What took longest of what overlapped brings beyond asyncio, by its own time."""
    found = {}
    for line in python("-X", "importtime", "-c", "import asyncio; import overlapped").stderr.splitlines():
        own, with_parts, name = line.removeprefix("import time:").split("|")
        if own.strip().isdigit():
            found[name.strip()] = Part(name.strip(), int(own) / 1e3, int(with_parts) / 1e3)
    ours = python("-c", MODULES).stdout.split()
    return sorted((found[name] for name in ours if name in found), key=lambda part: -part.own_ms)


def third_party() -> list[str]:
    """Modules that neither the standard library nor this package has."""
    tops = {name.partition(".")[0] for name in python("-c", MODULES).stdout.split()}
    return sorted(tops - set(sys.stdlib_module_names) - {"overlapped"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="three processes; fails on no bar")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there as well")
    args = parser.parse_args()
    rounds = 3 if args.smoke else 15
    python("-c", TIMED)  # writes the byte code
    asyncio_ms, ours_ms = times_ms(rounds)
    parts, foreign = largest_parts(), third_party()
    print(f"# Import time, CPU, median of {rounds} fresh processes: {machine()}\n")
    print(table(["", "ms"], [["import asyncio", f"{asyncio_ms:.1f}"], ["then import overlapped", f"{ours_ms:.1f}"]]))
    print(f"\nits largest parts of {len(parts)} (-X importtime, one process, slower than the above):\n")
    shown = [[part.name, f"{part.own_ms:.1f}", f"{part.with_parts_ms:.1f}"] for part in parts[:LARGEST]]
    print(table(["module", "own ms", "with what it imports"], shown))
    if args.json:
        with open(args.json, "w") as file:
            found = {"asyncio_ms": asyncio_ms, "overlapped_ms": ours_ms, "parts": [part._asdict() for part in parts]}
            json.dump({"machine": machine(), **found, "third_party": foreign}, file, indent=1)
    if foreign:
        print(f"\nimport overlapped brings in {', '.join(foreign)}: only the standard library is allowed")
        return 1
    print("\nonly the standard library is imported")
    return judge([Bar("import overlapped beyond asyncio", ours_ms, LIMIT_MS, " ms")], smoke=args.smoke)


if __name__ == "__main__":
    sys.exit(main())
