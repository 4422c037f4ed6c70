"""`sweep`: every number in flight is measured, small ones on a part, beside what was found without one."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest

from overlapped.compare.workloads.sweep import NUMBERS, Wanted
from tests.test_cli import overlapped

QUICK = ("compare", "--workload", "sweep", "--requests", "24", "--delay", "0.01")


@pytest.mark.slow
def test_data_holds_every_number_and_the_one_that_was_found():
    done = overlapped(*QUICK, "--repeat", "2", "--json", "-q")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    told = json.loads(done.stdout)
    assert (told["workload"], told["setting"]) == ("sweep", "in flight")
    (curve,) = told["curves"]
    assert (curve["name"], curve["status"]) == ("aiohttp", "ok")
    assert [spot["setting"] for spot in curve["spots"]] == [1, 2, 5, 10, 20, 24]
    for spot in curve["spots"]:
        assert len(spot["runs_per_s"]) == 2
        early = 0.85  # the server's loop counts in whole milliseconds
        assert max(spot["runs_per_s"]) <= spot["setting"] / (0.01 * early)  # nobody can be faster
        assert spot["call_s"] >= 0.01 * early
        assert spot["cpu_s_each"] > 0
    assert curve["found"]["setting"] >= 1
    assert curve["found_of_best"] == pytest.approx(curve["found"]["per_s"] / curve["best"]["per_s"])
    assert curve["best"]["per_s"] == max(spot["per_s"] for spot in curve["spots"])


@pytest.mark.slow
def test_the_table_and_the_picture_say_what_was_found(tmp_path):
    out = tmp_path / "sweep.svg"
    done = overlapped(*QUICK, "--repeat", "1", "--concurrency", "5", "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        *(f"overlapped: aiohttp, {number} in flight" for number in (1, 2, 5)),
        "overlapped: overlapped",
    ]
    assert any(line.startswith("overlapped ") and " found " in line for line in done.stdout.splitlines())
    assert "overlapped, the search for its number included, made" in done.stdout
    told = "".join(ET.parse(out).getroot().itertext())  # noqa: S314 - our own
    assert "How many requests in flight?" in told
    assert "overlapped found" in told


def test_a_small_number_is_measured_on_a_part_and_none_is_larger_than_the_requests():
    wanted = Wanted()
    assert wanted.numbers == list(NUMBERS)
    assert [wanted.count(number) for number in (1, 2, 20, 50, 1_000)] == [20, 40, 400, 1_000, 1_000]
    assert Wanted(whole=True).count(1) == 1_000
    assert Wanted(delay_s=0).count(1) == 1_000
    assert Wanted(requests=30).numbers == [1, 2, 5, 10, 20, 30]
    assert Wanted(requests=3_000, most=3_000).numbers == [*NUMBERS, 3_000]
    assert Wanted(requests=1).numbers == [1]


def test_models_are_not_chosen_among_numbers():
    done = overlapped("compare", "--workload", "sweep", "-m", "threads")
    assert (done.returncode, done.stdout) == (2, "")
    assert "sweep compares numbers in flight, not models: leave out -m" in done.stderr
