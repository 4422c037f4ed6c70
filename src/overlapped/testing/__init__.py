"""What tests of flows need: a virtual clock, a service of known capacity, a gauge, contracts.

The virtual clock needs one package more: `pip install 'overlapped[testing]'`. The rest needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from overlapped.testing.contracts import check_controller, check_sink
from overlapped.testing.gauge import Gauge
from overlapped.testing.service import Service, ServiceFailed

if TYPE_CHECKING:
    from overlapped.testing.clock import VirtualLoop, run, virtual

__all__ = [
    "Gauge",
    "Service",
    "ServiceFailed",
    "VirtualLoop",
    "check_controller",
    "check_sink",
    "run",
    "virtual",
]


def __getattr__(name: str) -> object:
    if name in ("VirtualLoop", "run", "virtual"):
        from overlapped.testing import clock

        return getattr(clock, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
