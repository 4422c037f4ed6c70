"""What the tests of the Ray lane run in processes of their own: `python -m tests.rules.ray_kit NAME [ARGUMENT]`.

Ray is one for a process, and these start it, connect it, or leave it to the run.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import sys
import time
from typing import Any

from overlapped import flow

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
STORE_BYTES = 100 * 2**20
FOLDERS, SHARED = "/tmp", "/dev/shm"  # noqa: S108 - looked into, to see what is left there


async def node_of(n: int) -> tuple[int, str]:
    import ray

    await asyncio.sleep(0.02)
    return n, ray.get_runtime_context().get_node_id()


async def size_of(url: str, session: Any) -> tuple[str, int, str]:
    import ray

    async with session.get(url) as answer:
        return url, len(await answer.read()), ray.get_runtime_context().get_node_id()


def blocks(n: int) -> tuple[int, int]:
    time.sleep(0.01)
    return n, os.getpid()


def bystanders() -> list[str]:
    """Ray's processes and files that are left."""
    found = [f"{FOLDERS}/{name}" for name in os.listdir(FOLDERS) if name.startswith("overlapped-ray-")]
    for pid in os.listdir("/proc"):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().replace(b"\0", b" ")
        except OSError:
            continue
        if b"overlapped-ray-" in words:
            found.append(f"{pid} {words[:200].decode(errors='replace')}")
    return found


def alone() -> dict[str, Any]:
    """Two stages with Ray in one run, and nobody has started it."""
    import ray

    shared = set(os.listdir(SHARED))
    chain = flow(range(50)).map(blocks, on="ray", concurrency=10).map(lambda pair: pair[0] + 1, on="ray")
    values = chain.collect()
    return {
        "values": values,
        "is_initialized": ray.is_initialized(),
        "left": bystanders(),
        "shared": sorted(set(os.listdir(SHARED)) - shared),
    }


def killed() -> None:
    """A run with a Ray of its own that says which processes it has, and goes on for ever."""
    with flow(range(100_000)).map(blocks, on="ray", concurrency=10).open() as items:
        pids = {next(items)[1] for _ in range(100)}
        print(json.dumps([sorted(pids), bystanders()]), flush=True)
        time.sleep(60)


def nodes(port: str) -> dict[str, Any]:
    """A flow on two nodes, each item a page; then one whose second node is lost in the middle."""
    import aiohttp
    import ray
    from ray.cluster_utils import Cluster

    from overlapped.compare.server import urls

    options = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    second = cluster.add_node(**options)
    ray.init(address=cluster.address, **QUIET)
    try:
        pages = flow(lambda: itertools.cycle(urls(int(port), 100, 0.02))).map(size_of, on="ray", concurrency=20)
        fetched: list[tuple[str, int, str]] = []
        with pages.using(session=aiohttp.ClientSession).open() as items:
            for page in items:
                fetched.append(page)
                if not len(fetched) % 100 and len({node for _, _, node in fetched}) == 2:
                    break
        got: list[tuple[int, str]] = []
        both: set[str] = set()
        alone = 0  # results in a row from one node
        with flow(itertools.count).map(node_of, on="ray", concurrency=40).open() as numbers:
            for n, node in numbers:
                alone = alone + 1 if got and node == got[-1][1] else 1
                got.append((n, node))
                if len(both) < 2:
                    both.add(node)
                    if len(both) == 2:
                        cluster.remove_node(second, allow_graceful=False)
                        end = n + 1_000
                elif n >= end and alone >= 500:  # processes of a node live on until they notice that it is lost
                    numbers.drain()
        return {
            "pages": fetched,
            "values": [n for n, _ in got],
            "nodes": sorted(both),
            "last_nodes": sorted({node for _, node in got[-200:]}),
            "is_initialized": ray.is_initialized(),
        }
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    choices: dict[str, Any] = {"alone": alone, "killed": killed, "nodes": nodes}
    print(json.dumps(choices[sys.argv[1]](*sys.argv[2:])), flush=True)
