"""Is what difnet is made of here? Python, PyTorch, ZeroMQ."""

import importlib.metadata
import importlib.util
import platform
import re

from difnet.doctor.finding import FAIL, OK, WARN, Finding
from difnet.record.formatting import printable


def requirement(package: str) -> str:
    """What the installed difnet asks of a package, such as "torch<=2.13.0,>=2.6"; its name alone where nobody knows."""
    try:
        asked = importlib.metadata.requires("difnet") or []
    except importlib.metadata.PackageNotFoundError:
        asked = []
    return next((line for line in asked if re.match(rf"{package}\b(?!-)", line)), package).partition(";")[0].strip()


def within(version: str, bounds: str) -> bool:
    """Whether a version is within bounds; what follows its numbers ("+cpu", "rc1") does not count.

    >>> within("2.13.0+cpu", "torch<=2.13.0,>=2.6"), within("2.14.0", "torch<=2.13.0,>=2.6")
    (True, False)
    """

    def numbers(text: str) -> tuple[int, ...]:
        found = re.match(r"\d+(\.\d+)*", text)
        parts = tuple(map(int, found[0].split("."))) if found else ()
        return parts + (0,) * (4 - len(parts))

    have = numbers(version)
    holds = {">=": have.__ge__, "<=": have.__le__, ">": have.__gt__, "<": have.__lt__, "==": have.__eq__}
    return all(holds[sign](numbers(bound)) for sign, bound in re.findall(r"(>=|<=|==|>|<)\s*([\d.]+)", bounds))


def python(version: tuple[int, ...], system: str) -> Finding:
    """The interpreter, and whether its system is one that difnet knows."""
    seen = f"{'.'.join(map(str, version))} on {platform.platform(terse=True)}, {platform.machine()}"
    if version < (3, 11):
        return Finding(FAIL, seen, "difnet needs Python 3.11 or later: make a new environment with it")
    if system != "linux":
        return Finding(FAIL, seen, "agents are forked and watched as Linux does it: use Linux, or a container")
    return Finding(OK, seen)


def torch_here(bounds: str) -> Finding:
    """PyTorch: its version, build and threads."""
    install = f"pip install '{bounds}', from the index that PyTorch's own site names for the CPU build"
    try:
        import torch

        from difnet.system.machine import cores
    except (ImportError, OSError) as error:  # a library of its own that is missing is an OSError
        return Finding(FAIL, f"cannot be imported: {printable(str(error))[:200]}", install)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    seen = f"{torch.__version__}, {build} build, {torch.get_num_threads()} threads on {cores()} cores"
    return Finding(OK, seen) if within(torch.__version__, bounds) else Finding(FAIL, f"{seen}; not {bounds}", install)


def zeromq(bounds: str) -> Finding:
    """pyzmq and libzmq, and what libzmq was built with."""
    try:
        import zmq
    except (ImportError, OSError) as error:
        return Finding(FAIL, f"cannot be imported: {printable(str(error))[:200]}", f"pip install '{bounds}'")
    has = {name: zmq.has(name) for name in ("ipc", "curve")}
    parts = ", ".join(f"{'with' if there else 'without'} {name}" for name, there in has.items())
    seen = f"libzmq {zmq.zmq_version()}, pyzmq {zmq.__version__}, {parts}"
    if not within(zmq.__version__, bounds):
        return Finding(FAIL, f"{seen}; not {bounds}", f"pip install '{bounds}'")
    if not has["ipc"]:
        return Finding(WARN, seen, "launch with --transport tcp, or take pyzmq from a wheel, whose libzmq has it")
    if not has["curve"]:
        return Finding(WARN, seen, "connections cannot be encrypted; pyzmq from a wheel has a libzmq that can")
    return Finding(OK, seen)
