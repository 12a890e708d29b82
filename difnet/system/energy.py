"""How many joules did a run take, who says so, and how good is that figure?

RAPL counts what whole sockets draw, other programs' work included: one meter per host. Where it cannot be read,
processor time times a stated power is an estimate, and is called one. Which counters there are, and how far they count,
is looked up in /sys/class/powercap, or in the folder that the environment variable DIFNET_POWERCAP names; pyRAPL, which
reads them, knows that one place alone.
"""

import errno
import logging
import os
import platform
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

POWERCAP = "/sys/class/powercap"
WATTS_PER_BUSY_CORE = 10.0  # a server core under load; an assumption, stated with every figure made from it
DOMAINS = ("package", "DRAM")  # in the order of pyRAPL's Device numbers


class Zone(NamedTuple):
    """One counter of the powercap tree: what it counts, and where it lies."""

    device: int  # pyRAPL's number: an index of DOMAINS
    socket: int
    folder: Path

    def __str__(self) -> str:
        return f"{DOMAINS[self.device]} {self.socket}"


class Counter(NamedTuple):
    """A counter of microjoules that begins again from 0 when it has counted `range_uj`."""

    read: Callable[[], float]  # raises whatever pyRAPL and the system raise
    range_uj: int
    start_uj: float


class Meter:
    """Counts from its making, or from when it was begun anew.

    Ask it more often than a counter wraps, once a minute at least: two wraps between two readings look like one.
    """

    def __init__(self) -> None:
        self._counters, self._refused = rapl(Path(os.environ.get("DIFNET_POWERCAP") or POWERCAP))
        self._last_uj = {name: counter.start_uj for name, counter in self._counters.items()}
        self._total_uj = 0.0

    def begin(self) -> float | None:
        """Count from now on. Returns the joules counted until now; None where no counter can be read."""
        lost = self._take_readings()
        counted, self._total_uj = self._total_uj, 0.0
        return None if len(lost) == len(self._counters) else counted / 1e6

    def so_far(self, cpu_s: float | None) -> dict[str, Any]:
        """The energy since then: joules, source and quality; it never raises.

        "measured" is all that RAPL counts here. "estimated" is `cpu_s`, the processor seconds since then, as energy; or
        what RAPL told of a part, when a counter cannot be read any more. The source says which, and why.
        """
        if not self._counters:
            return estimate(cpu_s, next(iter(self._refused.values()), "no RAPL to be seen on this machine"))
        lost = self._take_readings()
        if len(lost) == len(self._counters) and not self._total_uj:
            return estimate(cpu_s, "RAPL could be read at first, and no more")
        unread = [*self._refused, *lost]
        source = f"RAPL, whole sockets: {', '.join(self._counters)}"
        if unread:
            source += f"; at least so much, since {', '.join(unread)} could not be read"
        return {"joules": self._total_uj / 1e6, "source": source, "quality": "estimated" if unread else "measured"}

    def _take_readings(self) -> list[str]:
        """Add what each counter has counted since its last reading; returns the names of those that cannot be read."""
        unread = []
        for name, counter in self._counters.items():
            try:
                now = counter.read()
            except Exception:  # a counter can go away, with its driver or the right to read it; it may come back
                unread.append(name)
                continue
            self._total_uj += passed_uj(self._last_uj[name], now, counter.range_uj)
            self._last_uj[name] = now
        return unread


def machine_id() -> str:
    """This machine, told from every other one: the same for all its containers, and another after it was restarted."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


class Meters:
    """The meters of all machines of a run: our own, and those that the hosts elsewhere tell of."""

    def __init__(self) -> None:
        self._own, self._here = Meter(), machine_id()
        self._elsewhere: dict[str, tuple[set[int], dict[str, Any]]] = {}  # machine -> its agents, its latest reading
        self._before: dict[str, float] = {}  # machine -> its joules when we began

    def begin(self) -> float | None:
        """Count from now on, on every machine. Returns the joules measured until now; None where none were."""
        own = self._own.begin()
        self._before = {there: told["joules"] for there, (_, told) in self._elsewhere.items() if told["joules"]}
        return None if own is None and not self._before else (own or 0.0) + sum(self._before.values())

    def heard(self, there: str, agents: Iterable[int], reading: dict[str, Any]) -> None:
        """Take in what a host's meter says of its machine; hosts on one machine read the same counters."""
        if there != self._here:
            known = self._elsewhere.get(there, (set(), {}))[0]
            self._elsewhere[there] = known | set(agents), reading

    def so_far(self, cpu_s: Mapping[int, float]) -> dict[str, Any]:
        """The energy of all machines that agents run on, as `Meter.so_far` tells it.

        Args: `cpu_s`, the processor seconds of each agent: an estimate of them stands for a machine without counters.
        """
        away = set().union(*(agents for agents, _ in self._elsewhere.values()))
        told = [{**reading, "joules": WATTS_PER_BUSY_CORE * sum(cpu_s.get(k, 0.0) for k in agents)
                 if reading["joules"] is None else reading["joules"] - self._before.get(there, 0.0)}
                for there, (agents, reading) in self._elsewhere.items()]  # fmt: skip
        here = [s for k, s in cpu_s.items() if k not in away]
        return together([*([self._own.so_far(sum(here))] if here or not told else []), *told])


def together(readings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The energy of several machines: measured, if all of it is.

    >>> together([estimate(1.0), estimate(2.0)])
    {'joules': 30.0, 'source': 'processor time x 10 W per busy core', 'quality': 'estimated'}
    """
    return {"joules": sum(r["joules"] for r in readings),
            "source": "; ".join(dict.fromkeys(r["source"] for r in readings)),
            "quality": "measured" if all(r["quality"] == "measured" for r in readings) else "estimated"}  # fmt: skip


def passed_uj(before: float, now: float, range_uj: int) -> float:
    """What a counter has counted between two readings, with at most one wrap between them.

    Source: the kernel's documentation of the power capping framework, `energy_uj` and `max_energy_range_uj`.

    >>> passed_uj(10, 30, range_uj=100), passed_uj(90, 20, range_uj=100)
    (20, 30)
    """
    return now - before if now >= before else now - before + range_uj


def estimate(cpu_s: float | None, why: str = "") -> dict[str, Any]:
    """Processor seconds as energy, unknown where they are; `why` it had to be estimated becomes part of its source.

    >>> estimate(3.0)
    {'joules': 30.0, 'source': 'processor time x 10 W per busy core', 'quality': 'estimated'}
    """
    source = f"processor time x {WATTS_PER_BUSY_CORE:.0f} W per busy core" + (f"; {why}" if why else "")
    joules = None if cpu_s is None else cpu_s * WATTS_PER_BUSY_CORE
    return {"joules": joules, "source": source, "quality": "estimated"}


def rapl(root: Path) -> tuple[dict[str, Counter], dict[str, str]]:
    """The counters under a powercap folder, by name: those that can be read, and why the others cannot."""
    counters, refused = {}, {}
    for zone in zones(root):
        try:
            counters[str(zone)] = _open(zone)
        except PermissionError as error:
            refused[str(zone)] = f"RAPL may not be read here: no permission for {error.filename or zone.folder}"
        except Exception as error:  # pyRAPL and the system raise what they like, and the run must go on without
            refused[str(zone)] = f"RAPL cannot be read here: {type(error).__name__} {error}".rstrip()
    return counters, refused


def zones(root: Path) -> list[Zone]:
    """Packages, then DRAM, by socket; no whole-platform zone, since it counts the packages once more."""
    found = []
    for folder in root.glob("intel-rapl/intel-rapl:*"):
        if package := re.match(r"package-(\d+)", _name(folder)):
            socket = int(package[1])
            found.append(Zone(0, socket, folder))
            found += [Zone(1, socket, inner) for inner in folder.glob("intel-rapl:*") if _name(inner) == "dram"]
    return sorted(found)


def _name(folder: Path) -> str:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return ""


def _open(zone: Zone) -> Counter:
    """A counter with its first reading. One pyRAPL sensor each, so that one that fails takes no other with it."""
    energy = zone.folder / "energy_uj"
    if energy.exists() and not os.access(energy, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(energy))
    range_uj = int((zone.folder / "max_energy_range_uj").read_text())
    with _quietly():
        from pyRAPL import Device, Sensor

        sensor = Sensor([Device(zone.device)], [zone.socket])
    place = len(DOMAINS) * zone.socket + zone.device  # in its list: package and DRAM of socket 0, of socket 1, ...

    def read() -> float:
        return sensor.energy()[place]

    return Counter(read, range_uj, read())


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep pyRAPL's import from telling the user, through the root logger, which of its outputs lack a library.

    `logging.warning` would also give a root logger without handlers one, for good: so it has one meanwhile.
    """
    root, handler = logging.getLogger(), logging.NullHandler()

    def refuse(record: logging.LogRecord) -> bool:
        return False

    root.addHandler(handler)
    root.addFilter(refuse)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own, about pyRAPL's source
            yield
    finally:
        root.removeFilter(refuse)
        root.removeHandler(handler)
