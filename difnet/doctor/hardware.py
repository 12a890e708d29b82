"""What makes it fast, and what measures it? A compiler, counters of energy, a GPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from difnet.doctor.finding import OK, WARN, Ask, Finding
from difnet.record.formatting import printable
from difnet.system import energy
from difnet.system.programs import ask


def compiler(ask: Ask = ask) -> Finding:
    """The C++ compiler that makes the meta-gradient fast, found as the engine finds it."""
    from difnet.workload.engine import compiler

    install = "install g++ (Debian: apt install g++) and run again; or set CXX"
    slower = "the meta-gradient is traced instead of compiled, and a step takes several times as long"
    found = compiler()
    if found is None:
        return Finding(WARN, f"no $CXX, g++ or clang++ on the PATH: {slower}", install)
    answer = ask([found, "--version"])
    if answer.status != 0:
        return Finding(WARN, f"{found} does not answer ({printable(answer.last)[:200]}): {slower}", install)
    return Finding(OK, printable(answer.first))


def powercap(
    root: Path, read: Callable[[Path], tuple[Any, dict[str, str]]] = energy.rapl,
    mounts: Path = Path("/proc/self/mountinfo"),
) -> Finding:  # fmt: skip
    """RAPL, which counts joules: readable, unreadable, masked as containers mask it, or absent."""
    instead = f"energy is estimated ({energy.estimate(None)['source']})"
    counters, refused = read(root)
    if counters and not refused:
        return Finding(OK, f"RAPL counts {', '.join(counters)}")
    if refused:
        part = f"only {', '.join(counters)} can be read" if counters else instead
        remedy = "estimates will do for most; else see that pyRAPL reads this machine's counters"
        if any("no permission" in why for why in refused.values()):
            remedy = f"as root: chmod a+r {root}/intel-rapl/intel-rapl:*/energy_uj {root}/intel-rapl/*/*/energy_uj"
        return Finding(WARN, f"{part}; {next(iter(refused.values()))}", remedy)
    mounted = [line.split()[4] for line in mounts.read_text().splitlines()] if root == Path(energy.POWERCAP) else []
    entries = list(root.iterdir()) if root.is_dir() else []  # a link is left of what was hidden
    if any("/powercap" in place for place in mounted) or any(not entry.exists() for entry in entries):
        return Finding(WARN, f"RAPL is masked: {root} is hidden from this container; {instead}",
                       "measure with a host that runs outside a container")  # fmt: skip
    return Finding(OK, f"no RAPL in {root}; {instead}")


def gpu(device: Path = Path("/dev/nvidia0")) -> Finding:
    """Whether torch sees a GPU; nothing needs one."""
    import torch

    if torch.cuda.is_available():
        return Finding(OK, f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, for --device cuda")
    if device.exists():
        why = "its driver does not answer torch" if torch.version.cuda else "torch is a build without CUDA"
        return Finding(WARN, f"{device} is there, but {why}; runs use the CPU",
                       "for --device cuda install a CUDA build of torch that fits the driver")  # fmt: skip
    return Finding(OK, "absent; only --device cuda needs one")
