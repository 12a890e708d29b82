"""How many joules did a run take, who says so, and how good is that figure?

RAPL counts what whole sockets draw, other programs' work included: one meter per host. Where it cannot be read,
processor time times a stated power is an estimate, and is called one. Which counters there are, and how far they count,
is looked up in /sys/class/powercap, or in the folder that the environment variable DIFNET_POWERCAP names. pyRAPL reads
them, and knows that one place alone; where it stumbles, difnet reads the same counters itself, and the source says so.
"""

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
    socket: int  # -1 where the zone's name does not tell it
    part: str  # of the socket, such as " die 1"; "" for all of it
    folder: Path

    def __str__(self) -> str:
        return f"{DOMAINS[self.device]} {self.socket if self.socket >= 0 else '?'}{self.part}"


class Counter(NamedTuple):
    """A counter of microjoules that begins again from 0 when it has counted `range_uj`."""

    read: Callable[[], float]  # raises whatever pyRAPL and the system raise
    range_uj: int
    start_uj: float
    stumble: str = ""  # why difnet reads it itself; "" where pyRAPL reads it


class Meter:
    """Counts from its making, or from when it was begun anew.

    Ask it more often than a counter wraps, once a minute at least: two wraps between two readings look like one.
    """

    def __init__(self) -> None:
        self._counters, self._refused = rapl(Path(os.environ.get("DIFNET_POWERCAP") or POWERCAP))
        self._last_uj = {name: counter.start_uj for name, counter in self._counters.items()}
        self._total_uj = 0.0
        self._stumble = next((counter.stumble for counter in self._counters.values()), "")
        self.missed: list[str] = []  # the counters read by difnet that could not be read when it was begun anew

    def begin(self) -> float | None:
        """Count from now on. Returns the joules counted until now; None where no counter can be read.

        None as well where difnet reads them itself and not all of them can be read. What one of them counts from now
        on is then unknown for good, since its next reading holds what came before, too.
        """
        lost = self._take_readings()
        counted = None if self.missed or len(lost) == len(self._counters) else self._total_uj / 1e6
        self.missed, self._total_uj = lost if self._stumble else [], 0.0
        return None if self.missed else counted

    def so_far(self, cpu_s: float | None) -> dict[str, Any]:
        """The energy since then: joules, source and quality; it never raises.

        "measured" is all that RAPL counts here. "estimated" is `cpu_s`, the processor seconds since then, as energy; or
        what RAPL told of a part, when a counter cannot be read any more. "unknown", with None for the joules: difnet
        reads the counters itself, and not all of them can be read any more. The source says which, and why.
        """
        if not self._counters:
            return estimate(cpu_s, next(iter(self._refused.values()), "no RAPL to be seen on this machine"))
        lost = self._take_readings()
        if self._stumble:
            return self._all_or_unknown(dict.fromkeys([*self.missed, *lost]))
        if len(lost) == len(self._counters) and not self._total_uj:
            return estimate(cpu_s, "RAPL could be read at first, and no more")
        unread = [*self._refused, *lost]
        source = f"RAPL, whole sockets: {', '.join(self._counters)}"
        if unread:
            source += f"; at least so much, since {', '.join(unread)} could not be read"
        return {"joules": self._total_uj / 1e6, "source": source, "quality": "estimated" if unread else "measured"}

    def _all_or_unknown(self, unread: Iterable[str]) -> dict[str, Any]:
        """What counters that difnet reads itself tell: all of them together, or nothing."""
        source = f"RAPL (read by difnet: pyRAPL stumbled: {self._stumble}), whole sockets: {', '.join(self._counters)}"
        if names := ", ".join(unread):
            return unknown(f"{source}; unknown, since {names} could not be read")
        return {"joules": self._total_uj / 1e6, "source": source, "quality": "measured"}

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
        self._before: dict[str, dict[str, Any]] = {}  # machine -> its reading when we began

    def begin(self) -> float | None:
        """Count from now on, on every machine. Returns the joules measured until now.

        None where none were, or where those of a machine are unknown.
        """
        own = self._own.begin()
        self._before = {there: told for there, (_, told) in self._elsewhere.items()}
        if self._own.missed or any(told["quality"] == "unknown" for told in self._before.values()):
            return None
        away = [told["joules"] for told in self._before.values() if told["joules"]]
        return None if own is None and not away else (own or 0.0) + sum(away)

    def heard(self, there: str, agents: Iterable[int], reading: dict[str, Any]) -> None:
        """Take in what a host's meter says of its machine; hosts on one machine read the same counters."""
        if there != self._here:
            known = self._elsewhere.get(there, (set(), {}))[0]
            self._elsewhere[there] = known | set(agents), reading

    def so_far(self, cpu_s: Mapping[int, float]) -> dict[str, Any]:
        """The energy of all machines that agents run on, as `Meter.so_far` tells it.

        Args: `cpu_s`, the processor seconds of each agent: an estimate of them stands for a machine without counters,
        but not for one whose counters cannot be read any more: its energy is unknown, and so is that of all.
        """
        away = set().union(*(agents for agents, _ in self._elsewhere.values()))
        told = [since(self._before.get(there), reading, sum(cpu_s.get(k, 0.0) for k in agents))
                for there, (agents, reading) in self._elsewhere.items()]  # fmt: skip
        here = [s for k, s in cpu_s.items() if k not in away]
        return together([*([self._own.so_far(sum(here))] if here or not told else []), *told])


def together(readings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The energy of several machines: measured, if all of it is; unknown, if any of it is.

    >>> together([estimate(1.0), estimate(2.0)])
    {'joules': 30.0, 'source': 'processor time x 10 W per busy core', 'quality': 'estimated'}
    >>> together([estimate(1.0), unknown("RAPL")])
    {'joules': None, 'source': 'processor time x 10 W per busy core; RAPL', 'quality': 'unknown'}
    """
    source = "; ".join(dict.fromkeys(r["source"] for r in readings))
    qualities = {r["quality"] for r in readings}
    if "unknown" in qualities:
        return unknown(source)
    return {"joules": sum(r["joules"] for r in readings), "source": source,
            "quality": "measured" if qualities <= {"measured"} else "estimated"}  # fmt: skip


def since(before: dict[str, Any] | None, reading: dict[str, Any], cpu_s: float) -> dict[str, Any]:
    """A machine's energy from its reading `before` on, None if it had none yet; `cpu_s` stand in where nothing is read.

    >>> since(None, estimate(None), 1.0) == estimate(1.0), since(None, unknown("RAPL"), 1.0) == unknown("RAPL")
    (True, True)
    >>> since(unknown("RAPL"), {"joules": 7.0, "source": "RAPL", "quality": "measured"}, 1.0)
    {'joules': None, 'source': 'RAPL; unknown, since it could not be read when counting began', 'quality': 'unknown'}
    """
    if reading["quality"] == "unknown":
        return reading
    if reading["joules"] is None:
        return {**reading, "joules": WATTS_PER_BUSY_CORE * cpu_s}
    if before and before["quality"] == "unknown":
        return unknown(f"{reading['source']}; unknown, since it could not be read when counting began")
    return {**reading, "joules": reading["joules"] - ((before or {}).get("joules") or 0.0)}


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


def unknown(source: str) -> dict[str, Any]:
    """A reading without a figure, since a part of it could not be read and would be taken for the whole."""
    return {"joules": None, "source": source, "quality": "unknown"}


def rapl(root: Path) -> tuple[dict[str, Counter], dict[str, str]]:
    """The counters under a powercap folder, by name: those that can be read, and why the others cannot.

    pyRAPL reads them if it reads all that can be read. Where it stumbles over one of them, difnet reads the tree
    itself: all counters or none, so that no part is taken for the whole.
    """
    named, ours, refused = _named(zones(root)), {}, {}
    for name, zone in named.items():
        try:
            ours[name] = _open(zone)
        except PermissionError as error:
            refused[name] = f"RAPL may not be read here: no permission for {error.filename or zone.folder}"
        except Exception as error:  # the system raises what it likes, and the run must go on without
            refused[name] = f"RAPL cannot be read here: {_told(error)}"
    try:
        return _through_pyrapl({name: (named[name], counter) for name, counter in ours.items()}), refused
    except Exception as error:  # so does pyRAPL
        stumble = _told(error)
    return {} if refused else {name: counter._replace(stumble=stumble) for name, counter in ours.items()}, refused


def zones(root: Path) -> list[Zone]:
    """Packages, then DRAM, by socket; no whole-platform zone (psys), since it counts the packages once more.

    The memory of a package is not part of what its own zone counts. A zone whose name cannot be read is listed as what
    it may be: better a counter that is refused than one that nobody misses.
    """
    found = []
    for folder in root.glob("intel-rapl/intel-rapl:*"):
        name = _name(folder)
        if name is None or name.startswith("package-"):
            told = re.match(r"package-(\d+)(.*)", name or "")
            socket, part = (int(told[1]), told[2].replace("-", " ")) if told else (-1, "")
            found.append(Zone(0, socket, part, folder))
            found += [Zone(1, socket, part, inner) for inner in folder.glob("intel-rapl:*")
                      if _name(inner) in ("dram", None)]  # fmt: skip
    return sorted(found)


def _name(folder: Path) -> str | None:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return None


def _named(found: Sequence[Zone]) -> dict[str, Zone]:
    """Zones by name; by that of their folder, too, where several would have one name and one would hide the others."""
    plain = [str(zone) for zone in found]
    return {name if plain.count(name) == 1 else f"{name} ({zone.folder.name})": zone
            for name, zone in zip(plain, found, strict=True)}  # fmt: skip


def _told(error: Exception) -> str:
    return f"{type(error).__name__} {error}".rstrip()


def _open(zone: Zone) -> Counter:
    """A counter that difnet reads itself, with its first reading. Raises what the system raises where it cannot.

    Its file is opened for every reading, so that a zone that the kernel has taken away and given back counts again.
    """
    (zone.folder / "name").read_text()

    def read() -> int:
        return int((zone.folder / "energy_uj").read_text())

    return Counter(read, int((zone.folder / "max_energy_range_uj").read_text()), read())


def _through_pyrapl(readable: Mapping[str, tuple[Zone, Counter]]) -> dict[str, Counter]:
    """The same counters as pyRAPL reads them, by name. One sensor each, so that one that fails takes no other with it.

    Raises what pyRAPL raises over any of them, and ValueError where it would read one zone in place of several.
    """
    counters = {name: _sensed(zone, counter.range_uj) for name, (zone, counter) in readable.items()}
    if len({(zone.device, zone.socket) for zone, _ in readable.values()}) < len(readable):
        raise ValueError("it reads one zone where a socket has several")
    return counters


def _sensed(zone: Zone, range_uj: int) -> Counter:
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
