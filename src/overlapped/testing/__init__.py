"""What tests of flows need: a virtual clock, a service of known capacity, a gauge, contracts."""

from __future__ import annotations

from overlapped.testing.clock import Deadlock, VirtualLoop, run, virtual
from overlapped.testing.contracts.controller import check_controller
from overlapped.testing.contracts.lane import check_lane
from overlapped.testing.contracts.sink import check_sink
from overlapped.testing.contracts.stage import check_stage
from overlapped.testing.gauge import Gauge
from overlapped.testing.service import Service, ServiceFailed

__all__ = [
    "Deadlock",
    "Gauge",
    "Service",
    "ServiceFailed",
    "VirtualLoop",
    "check_controller",
    "check_lane",
    "check_sink",
    "check_stage",
    "run",
    "virtual",
]
