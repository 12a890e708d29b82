"""The meter on made-up machines, read by pyRAPL itself: wraps, missing domains, no right to read, readings that end.

Where pyRAPL stumbles, as its own code does over these machines, difnet reads the same counters: all of them, or none.

A child process reads a made-up /sys. Where mounts are allowed, it lies in a mount namespace of the child's own, over
the real one; everywhere, a thin layer below pyRAPL turns its two fixed paths into those of the made-up folder.
"""

import functools
import itertools
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from difnet.system.energy import Counter, Meter, Meters, passed_uj
from tests.conftest import environment

RANGE_UJ = 65_532_610_987  # a common one
MOUNT = """
mount -t tmpfs tmpfs /sys/class && mkdir /sys/class/powercap && mount --bind "$1/powercap" /sys/class/powercap &&
mount --bind "$1/cpu" /sys/devices/system/cpu && shift && exec "$@"
"""

CHILD = r"""
import builtins, ctypes, json, logging, os, subprocess, sys
from pathlib import Path

sysfs, redirect, steps = Path(sys.argv[1]), sys.argv[2] == "redirected", json.loads(sys.argv[3])
if redirect:
    def moved(path):
        for real, ours in (("/sys/class/powercap", "powercap"), ("/sys/devices/system/cpu", "cpu")):
            if str(path).startswith(real):
                return f"{sysfs / ours}{str(path).removeprefix(real)}"
        return path

    plain_open, plain_exists = open, os.path.exists
    builtins.open = lambda path, *rest, **words: plain_open(moved(path), *rest, **words)
    os.path.exists = lambda path: plain_exists(moved(path))

from difnet.system.energy import Meter

children = {}

def write(path, text):
    (sysfs / path).write_text(text)

def live(path, value):
    "The counter becomes one that the kernel takes away with the process it belongs to; it may hold up to 1000."
    children[path] = child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    target = Path(f"/proc/{child.pid}/oom_score_adj")
    target.write_text(str(value))
    (sysfs / path).unlink()
    (sysfs / path).symlink_to(target)

def die(path):
    children[path].communicate()

def forgo_rights():
    "Root's right to read what nobody may read."
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0

told, meter = [], None
for word, *arguments in steps:
    if word == "make":
        meter = Meter()
    elif word == "begin":
        told.append({"joules": meter.begin(), "source": "", "quality": ""})
    elif word == "ask":
        told.append(meter.so_far(*arguments))
    else:
        globals()[word](*arguments)
print(json.dumps({"told": told, "imported": "pyRAPL" in sys.modules, "handlers": len(logging.getLogger().handlers)}))
"""


@functools.cache
def way_in() -> list[str] | None:
    """The words before a command that runs it with mounts of its own, or None where this machine allows none."""
    for words in (["unshare", "-m"], ["unshare", "-Urm"]):
        with tempfile.TemporaryDirectory() as folder:
            Machine(Path(folder))
            try:
                ended = subprocess.run([*words, "sh", "-c", MOUNT, "sh", folder, "true"], capture_output=True)
            except OSError:
                return None
            if ended.returncode == 0:
                return words
    return None


class Machine:
    """A made-up /sys: counters of packages and DRAM, and processors that belong to sockets."""

    def __init__(self, sysfs: Path, packages: dict[str, int] | None = None, dram: dict[int, int] | None = None) -> None:
        self.sysfs = sysfs
        (sysfs / "powercap").mkdir(parents=True)
        for number, (name, start) in enumerate((packages or {}).items()):
            zone = f"powercap/intel-rapl/intel-rapl:{number}"
            self.add_zone(zone, name, start)
            self.add_zone(f"{zone}/intel-rapl:{number}:0", "core", 7)
            if number in (dram or {}):
                self.add_zone(f"{zone}/intel-rapl:{number}:1", "dram", (dram or {})[number])
        sockets = sorted({int(name.split("-")[1]) for name in packages or {} if name != "psys"})
        for cpu, socket in enumerate(sockets or [0]):
            topology = sysfs / f"cpu/cpu{cpu}/topology"
            topology.mkdir(parents=True)
            (topology / "physical_package_id").write_text(f"{socket}\n")
        (sysfs / "cpu/present").write_text(f"0-{len(sockets) - 1}\n" if len(sockets) > 1 else "0\n")

    def number_anew(self, old: int, new: int) -> None:
        """Give a top-level zone another number, so that there is a gap where it was."""
        folder = self.sysfs / "powercap/intel-rapl"
        (folder / f"intel-rapl:{old}").rename(folder / f"intel-rapl:{new}")

    def switch_smt_off(self) -> None:
        """Twice as many processors are listed as are switched on; the others have no topology."""
        (self.sysfs / "cpu/present").write_text("0-3\n")

    def add_zone(self, folder: str, name: str, start: int) -> None:
        path = self.sysfs / folder
        path.mkdir(parents=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        (path / "energy_uj").write_text(f"{start}\n")


class Told(NamedTuple):
    """What the child's meter said, and whether pyRAPL was imported for it."""

    answers: list[dict[str, Any]]
    imported: bool

    @property
    def joules(self) -> list[float]:
        return [answer["joules"] for answer in self.answers]

    @property
    def qualities(self) -> list[str]:
        return [answer["quality"] for answer in self.answers]

    @property
    def last(self) -> str:
        return self.answers[-1]["source"]


@pytest.fixture(params=["redirected", *(["mounted"] if way_in() else [])])
def meter(request, tmp_path):
    """Run steps with a meter on a made-up machine; nothing may be said to the user, nor left in the root logger."""

    def run(machine: Machine, *steps: tuple) -> Told:
        command = [sys.executable, "-c", CHILD, str(machine.sysfs), request.param, json.dumps(steps)]
        env = environment(DIFNET_POWERCAP=str(machine.sysfs / "powercap"))
        if request.param == "mounted":
            del env["DIFNET_POWERCAP"]
            command = [*(way_in() or []), "sh", "-c", MOUNT, "sh", str(machine.sysfs), *command]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr == ""
        said = json.loads(ended.stdout)
        assert said["handlers"] == 0
        return Told(said["told"], said["imported"])

    return run


def energy(package: int, dram: bool = False) -> str:
    zone = f"powercap/intel-rapl/intel-rapl:{package}"
    return f"{zone}/intel-rapl:{package}:1/energy_uj" if dram else f"{zone}/energy_uj"


def count(package: int, value: int, dram: bool = False) -> tuple:
    return "write", energy(package, dram), f"{value}\n"


MAKE, ASK = ("make",), ("ask", 2.0)


def test_a_meter_tells_the_difference_since_its_making_however_often_it_is_asked(meter, tmp_path):
    told = meter(Machine(tmp_path / "sys", {"package-0": 9_000_000}),
                 MAKE, ASK, count(0, 14_500_000), ASK, ASK, count(0, 21_000_000), ASK)  # fmt: skip
    assert told.joules == [0.0, 5.5, 5.5, 12.0]
    assert set(told.qualities) == {"measured"} and told.last == "RAPL, whole sockets: package 0"


def test_what_was_counted_before_a_meter_begins_anew_is_told_apart(meter, tmp_path):
    """Also over a wrap; asked after it, it tells what came since."""
    told = meter(Machine(tmp_path / "sys", {"package-0": RANGE_UJ - 1_000_000}),
                 MAKE, count(0, 3_000_000), ("begin",), ASK, count(0, 9_500_000), ASK, ("begin",), ASK)  # fmt: skip
    assert told.joules == pytest.approx([4.0, 0.0, 6.5, 6.5, 0.0])


def test_without_counters_nothing_is_known_of_what_came_before(meter, tmp_path):
    assert meter(Machine(tmp_path / "sys"), MAKE, ("begin",), ASK).joules == [None, 20.0]


def test_each_counter_wraps_for_itself(meter, tmp_path):
    """Package 0 wraps twice, package 1 never; a difference of sums would hide or double a wrap."""
    told = meter(Machine(tmp_path / "sys", {"package-0": RANGE_UJ - 2_000_000, "package-1": 5_000_000}),
                 MAKE, count(0, 1_000_000), count(1, 105_000_000), ASK,
                 count(0, RANGE_UJ - 1_000_000), ASK, count(0, 3_000_000), count(1, 106_000_000), ASK)  # fmt: skip
    after = [3 + 100, 103 + RANGE_UJ / 1e6 - 2, 103 + RANGE_UJ / 1e6 - 2 + 4 + 1]
    assert told.joules == pytest.approx(after, rel=1e-12)
    assert set(told.qualities) == {"measured"}


@pytest.mark.parametrize(("dram", "joules", "source"), [
    ({}, 3.0, "package 0, package 1"),
    ({1: 400}, 3.0 + 20.0, "package 0, package 1, DRAM 1"),
    ({0: 70, 1: 400}, 3.0 + 10.0 + 20.0, "package 0, package 1, DRAM 0, DRAM 1"),
], ids=["none", "of one socket", "of both"])  # fmt: skip
def test_packages_are_summed_and_memory_counts_where_it_is_counted(meter, tmp_path, dram, joules, source):
    """The cores are part of their package, the platform (psys) holds the packages: neither is added once more."""
    machine = Machine(tmp_path / "sys", {"package-0": 100, "package-1": 200, "psys": 300}, dram)
    steps = [count(0, 1_000_100), count(1, 2_000_200), count(2, 50_000_300)]
    steps += [count(k, start + (k + 1) * 10_000_000, dram=True) for k, start in dram.items()]
    told = meter(machine, MAKE, *steps, ASK)
    assert told.joules == pytest.approx([joules], rel=1e-12)
    assert told.last == f"RAPL, whole sockets: {source}" and told.qualities == ["measured"]


def test_without_rapl_processor_time_is_an_estimate_that_says_so(meter, tmp_path):
    told = meter(Machine(tmp_path / "sys"), MAKE, ("ask", 2.0), ("ask", 3.5), ("ask", None))
    assert told.joules == [20.0, 35.0, None] and set(told.qualities) == {"estimated"}
    assert told.last == "processor time x 10 W per busy core; no RAPL to be seen on this machine"
    assert not told.imported


def test_without_permission_the_estimate_names_the_file_to_ask_for(meter, tmp_path):
    """As on kernels since 2020 for all but root; pyRAPL is not even imported."""
    machine = Machine(tmp_path / "sys", {"package-0": 5})
    (machine.sysfs / energy(0)).chmod(0)
    told = meter(machine, ("forgo_rights",), MAKE, ASK)
    assert told.joules == [20.0] and told.qualities == ["estimated"]
    assert "; RAPL may not be read here: no permission for /" in told.last and told.last.endswith(energy(0))
    assert not told.imported


def test_a_package_that_may_not_be_read_makes_the_rest_a_lower_bound(meter, tmp_path):
    machine = Machine(tmp_path / "sys", {"package-0": 5, "package-1": 5})
    (machine.sysfs / energy(1)).chmod(0)
    told = meter(machine, ("forgo_rights",), MAKE, count(0, 4_000_005), ASK)
    assert told.joules == [4.0] and told.qualities == ["estimated"]
    assert told.last == "RAPL, whole sockets: package 0; at least so much, since package 1 could not be read"


@pytest.mark.parametrize("wrong", ["max_energy_range_uj", "energy_uj"])
def test_a_counter_without_its_files_is_an_estimate_that_says_what_went_wrong(meter, tmp_path, wrong):
    machine = Machine(tmp_path / "sys", {"package-0": 5})
    (machine.sysfs / energy(0)).with_name(wrong).unlink()
    told = meter(machine, MAKE, ASK)
    assert told.joules == [20.0] and told.qualities == ["estimated"]
    assert "; RAPL cannot be read here: FileNotFoundError" in told.last and wrong in told.last


def test_a_counter_that_the_kernel_takes_away_leaves_what_was_known(meter, tmp_path):
    """Its open file answers with an error from then on; the other package goes on being counted."""
    machine = Machine(tmp_path / "sys", {"package-0": 0, "package-1": 1_000_000})
    told = meter(machine, ("live", energy(0), 100), MAKE, count(1, 3_000_000), ASK, ("die", energy(0)), ASK,
                 count(1, 8_000_000), ASK)  # fmt: skip
    assert told.joules == [2.0, 2.0, 7.0]
    assert told.qualities == ["measured", "estimated", "estimated"]
    assert told.last.endswith("package 1; at least so much, since package 0 could not be read")


def test_when_every_counter_has_gone_the_joules_so_far_stay(meter, tmp_path):
    machine = Machine(tmp_path / "sys", {"package-0": 0})
    told = meter(machine, MAKE, count(0, 5_000_000), ASK, ("write", energy(0), ""), ASK)
    assert told.joules == [5.0, 5.0] and told.qualities == ["measured", "estimated"]
    assert told.last == "RAPL, whole sockets: package 0; at least so much, since package 0 could not be read"


def test_counters_that_go_before_they_told_anything_leave_an_estimate_not_zero(meter, tmp_path):
    machine = Machine(tmp_path / "sys", {"package-0": 0})
    told = meter(machine, ("live", energy(0), 100), MAKE, ("die", energy(0)), ASK)
    assert told.joules == [20.0] and told.qualities == ["estimated"]
    assert told.last.endswith("; RAPL could be read at first, and no more")


def test_a_counter_that_comes_back_catches_up(meter, tmp_path):
    """One unreadable answer loses nothing."""
    told = meter(Machine(tmp_path / "sys", {"package-0": 1_000_000}), MAKE, count(0, 2_000_000), ASK,
                 ("write", energy(0), ""), ASK, count(0, 9_000_000), ASK)  # fmt: skip
    assert told.joules == [1.0, 1.0, 8.0]
    assert told.qualities == ["measured", "estimated", "measured"]


def by_difnet(why: str, counters: str) -> str:
    return f"RAPL (read by difnet: pyRAPL stumbled: {why}), whole sockets: {counters}"


DIES = {"package-0-die-0": 9_000_000, "package-0-die-1": RANGE_UJ - 1_000_000}
BOTH_DIES = by_difnet("PyRAPLCantRecordEnergyConsumption", "package 0 die 0, package 0 die 1")


def test_both_dies_of_a_package_are_counted_where_pyrapl_refuses_them(meter, tmp_path):
    """One of them wraps, for itself."""
    told = meter(Machine(tmp_path / "sys", DIES), MAKE, ASK, count(0, 12_000_000), count(1, 4_000_000), ASK)
    assert told.joules == pytest.approx([0.0, 3 + 5]) and set(told.qualities) == {"measured"}
    assert told.last == BOTH_DIES


def test_a_counter_that_difnet_reads_may_wrap_again_and_again(meter, tmp_path):
    told = meter(Machine(tmp_path / "sys", DIES), MAKE, count(1, 4_000_000), ("begin",),
                 count(1, RANGE_UJ - 1_000_000), ASK, count(1, 2_000_000), ASK)  # fmt: skip
    assert told.joules == pytest.approx([5.0, RANGE_UJ / 1e6 - 5, RANGE_UJ / 1e6 - 2], rel=1e-12)


def test_a_die_behind_a_gap_is_not_taken_for_the_one_that_pyrapl_finds(meter, tmp_path):
    """pyRAPL raises nothing here: it sees the first die alone, and would tell its figure for either."""
    machine = Machine(tmp_path / "sys", {"package-0-die-0": 0, "package-0-die-1": 0})
    machine.number_anew(1, 2)
    told = meter(machine, MAKE, count(0, 1_000_000), count(2, 20_000_000), ASK)
    assert told.joules == [21.0]
    why = "ValueError it reads one zone where a socket has several"
    assert told.last == by_difnet(why, "package 0 die 0, package 0 die 1")


def test_a_gap_in_the_numbers_of_zones_hides_no_package(meter, tmp_path):
    """Memory counts, as it does where pyRAPL reads."""
    machine = Machine(tmp_path / "sys", {"package-0": 0, "package-1": 0}, dram={0: 5, 1: 5})
    machine.number_anew(1, 2)
    memory = energy(1, dram=True).replace("/intel-rapl:1/", "/intel-rapl:2/")
    told = meter(machine, MAKE, count(0, 1_000_000), count(2, 20_000_000), count(0, 300_000_005, dram=True),
                 ("write", memory, "4000000005"), ASK)  # fmt: skip
    assert told.joules == [1 + 20 + 300 + 4000] and told.qualities == ["measured"]
    why = "PyRAPLCantRecordEnergyConsumption"
    assert told.last == by_difnet(why, "package 0, package 1, DRAM 0, DRAM 1")


@pytest.mark.parametrize("last", [2, 3], ids=["pyrapl reads", "difnet reads"])
def test_the_platform_between_two_packages_is_not_added_to_them(meter, tmp_path, last):
    """Nor is the same package under another interface (MMIO). pyRAPL steps over psys, but not over a gap behind it."""
    machine = Machine(tmp_path / "sys", {"package-0": 0, "psys": 0, "package-1": 0})
    machine.add_zone("powercap/intel-rapl-mmio/intel-rapl-mmio:0", "package-0", 0)
    if last == 3:
        machine.number_anew(2, 3)
    told = meter(machine, MAKE, count(0, 1_000_000), count(1, 500_000_000), count(last, 20_000_000),
                 ("write", "powercap/intel-rapl-mmio/intel-rapl-mmio:0/energy_uj", "7000000"), ASK)  # fmt: skip
    assert told.joules == [21.0] and told.qualities == ["measured"]
    by_itself = by_difnet("PyRAPLCantRecordEnergyConsumption", "package 0, package 1")
    assert told.last == ("RAPL, whole sockets: package 0, package 1" if last == 2 else by_itself)


def test_processors_that_are_switched_off_hide_no_counter(meter, tmp_path):
    """pyRAPL asks each of them for its socket, and they answer no more."""
    machine = Machine(tmp_path / "sys", {"package-0": 0, "package-1": 0})
    machine.switch_smt_off()
    told = meter(machine, MAKE, count(0, 1_000_000), count(1, 20_000_000), ASK)
    assert told.joules == [21.0] and told.qualities == ["measured"]
    assert told.last.startswith("RAPL (read by difnet: pyRAPL stumbled: FileNotFoundError [Errno 2] ")
    assert told.last.endswith("cpu/cpu2/topology/physical_package_id'), whole sockets: package 0, package 1")


def test_two_zones_of_one_name_are_both_counted(meter, tmp_path):
    machine = Machine(tmp_path / "sys", {"package-0": 0, "package-1": 0})
    (machine.sysfs / energy(1)).with_name("name").write_text("package-0\n")
    told = meter(machine, MAKE, count(0, 1_000_000), count(1, 20_000_000), ASK)
    assert told.joules == [21.0]
    assert told.last.endswith("whole sockets: package 0 (intel-rapl:0), package 0 (intel-rapl:1)")


@pytest.mark.parametrize("unreadable", ["energy_uj", "name"])
def test_where_difnet_reads_one_die_that_may_not_be_read_refuses_both(meter, tmp_path, unreadable):
    """A zone that keeps its name to itself may be a package, too."""
    machine = Machine(tmp_path / "sys", DIES)
    kept = (machine.sysfs / energy(1)).with_name(unreadable)
    kept.chmod(0)
    told = meter(machine, ("forgo_rights",), MAKE, count(0, 12_000_000), ("begin",), count(0, 15_000_000), ASK)
    assert told.joules == [None, 20.0] and told.qualities[1:] == ["estimated"]
    assert "; RAPL may not be read here: no permission for /" in told.last
    assert told.last.endswith(f"intel-rapl:1/{unreadable}")


def test_what_difnet_reads_is_unknown_while_a_die_is_away_and_never_a_part(meter, tmp_path):
    """One unreadable answer loses nothing."""
    told = meter(Machine(tmp_path / "sys", {"package-0-die-0": 0, "package-0-die-1": 0}),
                 MAKE, count(0, 1_000_000), count(1, 2_000_000), ASK, ("write", energy(1), ""), ASK,
                 count(0, 5_000_000), ASK, count(1, 9_000_000), ASK)  # fmt: skip
    assert told.joules == [3.0, None, None, 14.0]
    assert told.qualities == ["measured", "unknown", "unknown", "measured"]
    assert told.answers[1]["source"] == f"{BOTH_DIES}; unknown, since package 0 die 1 could not be read"
    assert told.last == BOTH_DIES


def test_when_the_kernel_takes_away_all_that_difnet_reads_the_joules_are_unknown(meter, tmp_path):
    machine = Machine(tmp_path / "sys", {"package-0-die-0": 0, "package-0-die-1": 0})
    told = meter(machine, MAKE, count(0, 1_000_000), ASK, ("write", energy(0), ""), ("write", energy(1), ""), ASK)
    assert told.joules == [1.0, None]
    assert told.last.endswith("; unknown, since package 0 die 0, package 0 die 1 could not be read")


def test_a_die_that_is_away_when_a_meter_begins_anew_leaves_what_came_before_and_after_unknown(meter, tmp_path):
    """Its next reading holds what it counted before as well; beginning once more, with all of them, is a way out."""
    told = meter(Machine(tmp_path / "sys", {"package-0-die-0": 0, "package-0-die-1": 0}),
                 MAKE, count(0, 1_000_000), ("write", energy(1), ""), ("begin",), count(1, 9_000_000), ASK,
                 ("begin",), count(1, 10_000_000), ASK)  # fmt: skip
    assert told.joules == [None, None, None, 1.0]
    assert told.answers[1]["source"].endswith("; unknown, since package 0 die 1 could not be read")


MEASURED = {"joules": 7.0, "source": "RAPL", "quality": "measured"}
UNKNOWN = {"joules": None, "source": "RAPL; unknown", "quality": "unknown"}


def test_the_energy_of_all_machines_is_unknown_while_that_of_one_is(monkeypatch, tmp_path):
    """Processor time stands in for counters that never were, not for those that went away."""
    monkeypatch.setenv("DIFNET_POWERCAP", str(tmp_path))
    meters = Meters()
    meters.heard("second", [1], MEASURED)
    meters.heard("third", [2], UNKNOWN)
    told = meters.so_far({0: 1.0, 1: 1.0, 2: 1.0})
    assert told["joules"] is None and told["quality"] == "unknown" and "RAPL; unknown" in told["source"]
    meters.heard("third", [2], MEASURED)
    assert meters.so_far({0: 1.0, 1: 1.0, 2: 1.0})["joules"] == 10.0 + 7.0 + 7.0


def test_a_machine_that_is_unknown_when_counting_begins_has_no_amount_before_nor_after(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFNET_POWERCAP", str(tmp_path))
    meters = Meters()
    meters.heard("second", [1], MEASURED)
    meters.heard("third", [2], UNKNOWN)
    assert meters.begin() is None
    meters.heard("third", [2], MEASURED)
    told = meters.so_far({1: 1.0, 2: 1.0})
    assert told["joules"] is None and told["source"].endswith("it could not be read when counting began")


def test_this_machine_away_when_counting_begins_is_not_left_out_of_what_came_before(monkeypatch):
    def read() -> int:
        raise OSError

    monkeypatch.setattr("difnet.system.energy.rapl", lambda root: ({"package 0": Counter(read, 100, 0, "why")}, {}))
    meters = Meters()
    meters.heard("second", [1], MEASURED)
    assert meters.begin() is None
    assert meters.so_far({0: 1.0, 1: 1.0})["joules"] is None


def test_a_folder_of_ones_own_is_where_counters_are_looked_for(monkeypatch, tmp_path):
    """An empty one turns RAPL off."""
    monkeypatch.setenv("DIFNET_POWERCAP", str(tmp_path))
    assert Meter().so_far(1.0)["source"].endswith("no RAPL to be seen on this machine")


def test_readings_of_a_wrapping_counter_add_up_to_what_it_counted():
    """A counter is the true energy modulo its range; steps up to just below one range."""
    draw = random.Random(0)
    true = list(itertools.accumulate([draw.randrange(RANGE_UJ) for _ in range(500)], initial=RANGE_UJ - 1))
    passed = sum(passed_uj(a % RANGE_UJ, b % RANGE_UJ, RANGE_UJ) for a, b in itertools.pairwise(true))
    assert passed == true[-1] - true[0]
