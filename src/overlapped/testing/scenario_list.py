"""The scenarios by name: those that constants were chosen on, and those kept apart."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any, Final

from overlapped.control.auto import AUTO
from overlapped.testing.scenarios import FakeServer, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from overlapped.testing.scenarios import Seconds


def fixed(seconds: float) -> Seconds:
    """Always the same."""
    return lambda server, item: seconds


def exponential(mean_s: float) -> Seconds:
    """Exponential."""
    return lambda server, item: server.random.expovariate(1 / mean_s)


def lognormal(mean_s: float, sigma: float) -> Seconds:
    """Lognormal with this mean."""
    mu = math.log(mean_s) - sigma * sigma / 2
    return lambda server, item: server.random.lognormvariate(mu, sigma)


def two_kinds(short_s: float, long_s: float, share: float) -> Seconds:
    """Short ones, and a share of long ones."""
    return lambda server, item: long_s if server.random.random() < share else short_s


def crowded(base_s: float, alpha: float, beta: float) -> Seconds:
    """The universal scalability law: contention (alpha) and crosstalk (beta) make each call slower."""
    return lambda server, item: base_s * (1 + alpha * (server.in_flight - 1) + beta * server.in_flight**2)


def cliff(base_s: float, above: int, times: float) -> Seconds:
    """All is well up to a number of calls in flight, then it is not."""

    def work_s(server: FakeServer, _: int) -> float:
        crowd = times * server.in_flight / above if server.in_flight > above else 1.0
        return base_s * crowd * server.random.uniform(0.8, 1.2)

    return work_s


def drifting(first_s: float, last_s: float, over_s: float) -> Seconds:
    """From one time to another, evenly."""
    return lambda server, item: first_s + (last_s - first_s) * min(1.0, server.now_s / over_s)


def in_blocks(base_s: float, times: float, block: int) -> Seconds:
    """Cheap and expensive items in blocks."""
    return lambda server, item: base_s * (times if item // block % 2 else 1.0) * server.random.uniform(0.9, 1.1)


def pareto(least_s: float, shape: float, most_s: float) -> Seconds:
    """A tail without end, cut at `most_s`."""
    return lambda server, item: min(most_s, least_s * server.random.paretovariate(shape))


def steps(*values: tuple[float, float]) -> Callable[[float], float]:
    """A value from each time on."""

    def at(now_s: float) -> float:
        return next(value for since_s, value in reversed(values) if now_s >= since_s)

    return at


def trickle_then_flood(seed: int) -> Iterator[float]:
    """Half of what 16 workers of 50 ms can do for 20 s, then more than they can."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable series
    now_s = 0.0
    while True:
        now_s += chance.expovariate(100 if now_s < 20 else 2_000)
        yield now_s


def poisson(per_s: float) -> Callable[[int], Iterator[float]]:
    """Arrivals at random."""

    def times(seed: int) -> Iterator[float]:
        chance = random.Random(seed)  # noqa: S311 - a repeatable series
        now_s = 0.0
        while True:
            now_s += chance.expovariate(per_s)
            yield now_s

    return times


def batch(a_s: float, c_s: float, sigma: float = 0.05, power: float = 1.0) -> Seconds:
    """A call of b items: a + c * b, with noise; above power 1 it gets out of hand."""
    return lambda server, size: (a_s + c_s * size**power) * server.random.lognormvariate(-sigma * sigma / 2, sigma)


def spiky(a_s: float, c_s: float) -> Seconds:
    """Noise of sigma 0.5, and one call in 30 takes 8 times as long."""
    return lambda server, size: (
        (a_s + c_s * size) * server.random.lognormvariate(-0.125, 0.5) * (8 if server.random.random() < 1 / 30 else 1)
    )


def slower(a_s: float, c_s: float, times: float, at_s: float) -> Seconds:
    """A service that is slower from some time on."""
    return lambda server, size: (
        (a_s + c_s * size) * (times if server.now_s >= at_s else 1) * server.random.lognormvariate(0, 0.1)
    )


def _on(name: str, work_s: Seconds, **options: Any) -> Scenario:
    """A scenario of one server; options of `Scenario` and of `FakeServer` may be mixed."""
    own = {key: options.pop(key) for key in list(options) if key in Scenario.__dataclass_fields__}
    return Scenario(name, lambda seed: FakeServer(work_s, seed=seed, **options), **own)


NOTHING: Final = fixed(0.0)
BATCHES: Final[dict[str, Any]] = {"is_batched": True, "kind": "batch"}

TUNED: Final = (
    _on("fixed_100ms_cpu2000", NOTHING, wait_s=fixed(0.1), cpu_s=0.0005, lasts_s=30.0),
    _on("mmc32_50ms", exponential(0.05), workers=32),
    _on("single_worker_20ms", fixed(0.02), workers=1),
    _on("disk4_5ms", exponential(0.005), workers=4, lasts_s=30.0),
    _on("shaper_300ps", fixed(1 / 300), workers=1, wait_s=fixed(0.1)),
    _on("rate100_429", fixed(0.05), rate_per_s=100, burst=5, kind="rate"),
    _on("rate100_429_silent", fixed(0.05), rate_per_s=100, burst=5, retry_after="none", kind="rate"),
    _on("rate100_429_1s", fixed(0.05), rate_per_s=100, burst=20, retry_after=1.0, kind="rate"),
    _on("collapse_usl", crowded(0.05, 0.005, 0.0005), kind="refusal", lasts_s=60.0),
    _on("lognormal_cpu1000", NOTHING, wait_s=lognormal(0.1, 1.2), cpu_s=0.001, lasts_s=40.0, kind="spread"),
    _on("bimodal_w64", two_kinds(0.02, 1.2, 0.11), workers=64, kind="spread"),
    _on("cap_64_32_96", exponential(0.075), workers=steps((0, 64), (20, 32), (40, 96)), kind="change"),
    _on("drift_50_250ms", NOTHING, wait_s=drifting(0.05, 0.25, 40.0), cpu_s=0.001, lasts_s=40.0, kind="change"),
    _on("conn_limit_40", fixed(0.1), refuses_above=40, kind="refusal"),
    _on("item_cost_blocks_w48", in_blocks(0.02, 8.0, 200), workers=48, kind="spread", is_hard=True),
    _on("slow_llm_w100", lognormal(5.0, 0.5), workers=100, lasts_s=900.0),
    _on("starved_then_flood", exponential(0.05), workers=16, arrivals=trickle_then_flood, kind="change"),
    _on("short200_fixed", fixed(0.1), items=200, kind="short", is_hard=True),
    _on("short300_w20", exponential(0.1), workers=20, items=300, kind="short", is_hard=True),
)

HELD_OUT: Final = (
    _on("mmc8_1s", exponential(1.0), workers=8, lasts_s=300.0, is_held_out=True),
    _on("mmc200_30ms", exponential(0.03), workers=200, lasts_s=8.0, is_held_out=True),
    _on("lognormal_w100", lognormal(0.08, 1.0), workers=100, lasts_s=40.0, kind="spread", is_held_out=True),
    _on(
        "bimodal_90_10",
        two_kinds(0.01, 2.0, 0.1),
        workers=96,
        lasts_s=120.0,
        kind="spread",
        is_hard=True,
        is_held_out=True,
    ),
    _on(
        "pareto_cpu800",
        NOTHING,
        wait_s=pareto(0.03, 1.6, 5.0),
        cpu_s=1 / 800,
        lasts_s=40.0,
        kind="spread",
        is_held_out=True,
    ),
    _on("cliff_60", cliff(0.06, 60, 8.0), kind="refusal", is_held_out=True),
    _on("cliff_12", cliff(0.1, 12, 4.0), kind="refusal", is_held_out=True),
    _on("random_failures_2pc", exponential(0.05), workers=24, fails=0.02, is_held_out=True),
    _on("knee_6_jitter", lognormal(0.05, 0.3), workers=6, is_held_out=True),
    _on("capacity_halves", exponential(0.05), workers=steps((0, 48), (30, 24)), kind="change", is_held_out=True),
    _on("capacity_doubles", exponential(0.05), workers=steps((0, 20), (25, 40)), kind="change", is_held_out=True),
    _on("conn_limit_drops", fixed(0.08), refuses_above=steps((0, 64), (30, 24)), kind="refusal", is_held_out=True),
    _on("rate30_429", lognormal(0.2, 0.4), rate_per_s=30, burst=3, kind="rate", is_held_out=True),
    _on("rate500_burst50", fixed(0.04), rate_per_s=500, burst=50, lasts_s=40.0, kind="rate", is_held_out=True),
    _on("shaper_80_slow", fixed(1 / 80), workers=1, wait_s=lognormal(0.4, 0.3), lasts_s=120.0, is_held_out=True),
    _on("gets_faster", NOTHING, wait_s=drifting(0.3, 0.06, 30.0), cpu_s=0.002, kind="change", is_held_out=True),
    _on("short1000_w40", exponential(0.1), workers=40, items=1_000, kind="short", is_held_out=True),
    _on("short3000_cpu1000", NOTHING, wait_s=fixed(0.1), cpu_s=0.001, items=3_000, kind="short", is_held_out=True),
    _on("blocks_slow_w20", in_blocks(0.03, 4.0, 1_000), workers=20, kind="spread", is_held_out=True),
)

BATCHED: Final = (
    _on("db_5ms_50us", batch(0.005, 50e-6), **BATCHES, lasts_s=30.0),
    _on("http_100ms_1ms", batch(0.1, 0.001), **BATCHES, lasts_s=60.0),
    _on("no_gain", batch(1e-4, 0.001), **BATCHES, lasts_s=20.0),
    _on("big_overhead", batch(1.0, 1e-4), **BATCHES, lasts_s=120.0),
    _on("max_500", batch(0.02, 1e-4), most_items=500, **BATCHES, lasts_s=30.0),
    _on("super_200", batch(0.02, 2e-6, power=2.0), **BATCHES, lasts_s=60.0),
    _on("times_out_2s", batch(0.05, 0.005), time_out_s=2.0, **BATCHES, lasts_s=120.0),
    _on("noisy_heavy", spiky(0.01, 1e-4), **BATCHES, lasts_s=60.0, is_hard=True),
    _on("slower_x4", slower(0.01, 5e-5, 4.0, 20.0), **BATCHES, lasts_s=60.0),
    _on("arrivals_2000ps", batch(0.02, 1e-4), arrivals=poisson(2_000), **BATCHES, lasts_s=20.0),
    _on("short_3000", batch(0.02, 1e-4), items=3_000, **BATCHES, is_hard=True),
    _on("max_25", batch(0.02, 1e-3), most_items=25, **BATCHES, is_held_out=True),
    _on("db_20ms_200us", batch(0.02, 2e-4, 0.3), **BATCHES, is_held_out=True),
    _on("db_parallel", batch(0.004, 1e-4), workers=4, concurrency=AUTO, **BATCHES, lasts_s=20.0, is_held_out=True),
    _on("http_parallel", batch(0.08, 5e-4), workers=16, concurrency=AUTO, **BATCHES, lasts_s=20.0, is_held_out=True),
)

EVERY: Final = (*TUNED, *HELD_OUT, *BATCHED)


def by_name(name: str) -> Scenario:
    """The scenario of that name."""
    return next(scenario for scenario in EVERY if scenario.name == name)
