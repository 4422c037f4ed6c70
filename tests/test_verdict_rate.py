"""How often the verdict is wrong: 200 random flows of which it is known what sets their pace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "verdicts.py"
FLOWS, PARTS = 200, 4


@pytest.mark.slow
@pytest.mark.timeout(300)  # 20 s of CPU each
@pytest.mark.parametrize("part", range(PARTS))
def test_of_200_random_flows_at_most_one_in_twenty_gets_a_wrong_verdict(part):
    flows = FLOWS // PARTS
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--flows", str(flows), "--seed", str(part * flows)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{flows} flows (" in done.stdout
    assert "bar 5%" in done.stdout
