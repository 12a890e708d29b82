"""How many joules did a run take, who says so, and how good is that figure?

One meter per host: RAPL counts sockets. Where it cannot be read, processor time times a stated power is an estimate,
and is called one.
"""

import logging
import os
from pathlib import Path
from typing import Any

RAPL = Path("/sys/class/powercap/intel-rapl/intel-rapl:0/energy_uj")
WATTS_PER_BUSY_CORE = 10.0  # a server core under load; an assumption, stated with every figure made from it


class Meter:
    """Counts from its making until `read`."""

    def __init__(self) -> None:
        self._measurement: Any = None
        if os.access(RAPL, os.R_OK):
            logging.getLogger("pyRAPL").setLevel(logging.CRITICAL)
            try:
                import pyRAPL

                pyRAPL.setup()
                self._measurement = pyRAPL.Measurement("run")
                self._measurement.begin()
            except Exception:  # pyRAPL raises plain exceptions for whatever it does not find
                self._measurement = None

    def read(self, cpu_s: float) -> dict[str, Any]:
        """The energy since the meter was made: joules, source and quality ("measured" or "estimated")."""
        if self._measurement is not None:
            self._measurement.end()
            micro = [j for j in (self._measurement.result.pkg or []) if j is not None and j >= 0]
            if micro:
                return {"joules": sum(micro) / 1e6, "source": "RAPL, whole sockets", "quality": "measured"}
        return estimate(cpu_s)


def estimate(cpu_s: float) -> dict[str, Any]:
    """Processor seconds as energy.

    >>> estimate(3.0)
    {'joules': 30.0, 'source': 'processor time x 10 W per busy core', 'quality': 'estimated'}
    """
    source = f"processor time x {WATTS_PER_BUSY_CORE:.0f} W per busy core"
    return {"joules": cpu_s * WATTS_PER_BUSY_CORE, "source": source, "quality": "estimated"}
