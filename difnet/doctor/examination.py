"""What does this machine have that a run needs, what does it lack, and what would help?

A check looks at one thing and returns a `Finding`; limits, folders and the way to ask a program are its arguments.
Nothing is changed: what is written, to see whether it can be, has no name and is gone at once.
"""

import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from difnet.doctor import capacity
from difnet.places.compose import versions
from difnet.record.formatting import bytes_text, time_text
from difnet.screen.lines import printable
from difnet.system import energy
from difnet.system.programs import Answer, ask

if TYPE_CHECKING:
    from difnet.topology import Topology

OK, WARN, FAIL = "ok", "warn", "fail"  # from good to bad
SMOKE_S = 240.0
SMOKE_ITERATIONS = 20
LEAST_FREE, SOME_FREE = 64 * 2**20, 2**30
SOCKET_PATH_BYTES, SOCKET_NAME = 107, "difnet-4194304-abcdefgh/registry"  # of an ipc socket, in the temporary folder
Ask = Callable[[list[str]], Answer]


class Finding(NamedTuple):
    """What was seen; a warning and a failure have a remedy."""

    state: str
    seen: str
    remedy: str = ""


def examine(
    topology: "Topology", here: int, runs: Path, data_dir: str | None = None, smoke: bool = False
) -> dict[str, Finding]:
    """Every check of this machine, by name, in the order of reading.

    Args: `here`, how many agents of the topology run on this machine; `runs`, where run folders go; `smoke`, whether
        to run two agents as well.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # what difnet raises its own limit to
    checks: dict[str, Callable[[], Finding]] = {
        "Python": lambda: python(sys.version_info[:3], sys.platform),
        "torch": lambda: torch_here(requirement("torch")),
        "ZeroMQ": lambda: zeromq(requirement("pyzmq")),
        "descriptors": lambda: descriptors(topology, here, most),
        "memory": lambda: memory(here, capacity.bytes_left()),
        "processes": lambda: processes(here, *capacity.tasks_left()),
        "compiler": compiler,
        "energy": lambda: powercap(Path(os.environ.get("DIFNET_POWERCAP") or energy.POWERCAP)),
        "GPU": gpu,
        "docker": docker,
        "Slurm": lambda: program("srun", ["srun", "--version"], "runs on a Slurm cluster need"),
        "Ray": lambda: package("ray", "runs on a Ray cluster need"),
        "Kubernetes": lambda: program("kubectl", ["kubectl", "version", "--client"], "runs in Kubernetes need"),
        "runs": lambda: folder(runs, FAIL, "run elsewhere with --runs DIR"),
        "temporary": temporary,
        "cache": cache,
        "data": lambda: data_sets(data_dir),
    }
    if smoke:
        checks["smoke"] = two_agents
    return {name: looked_at(check) for name, check in checks.items()}


def looked_at(check: Callable[[], Finding]) -> Finding:
    """What a check finds; one that fails itself finds that it could not find out."""
    try:
        return check()
    except Exception as error:  # whatever a strange machine makes of it: the other checks are still worth reading
        why = printable(f"{type(error).__name__}: {error}")[:200]
        return Finding(WARN, f"could not be found out: {why}", "difnet doctor --smoke says whether a run works anyway")


def worst(findings: Iterable[Finding]) -> str:
    """The worst state.

    >>> worst([Finding("ok", ""), Finding("warn", "", "")]), worst([])
    ('warn', 'ok')
    """
    return max((finding.state for finding in findings), key=(OK, WARN, FAIL).index, default=OK)


# what difnet is made of


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


# what a network of agents takes


def descriptors(topology: "Topology", here: int, most: int) -> Finding:
    """File descriptors that a run needs, in the process that needs most, against what one process may have."""
    by_process = capacity.descriptors_for(topology, here)
    need = max(by_process.values())
    allowed = math.inf if most == resource.RLIM_INFINITY else most
    who = ", ".join(f"{name} takes {count}" for name, count in by_process.items())
    seen = f"{topology.name} with {here} agents here: {who}; a process may have {allowed:.0f}"
    dialled = max(dialled for _, dialled in capacity.links(topology).values())
    if dialled > capacity.MOST_DIALLED:
        most = capacity.MOST_DIALLED
        return Finding(FAIL, f"{seen}; an agent would dial {dialled} neighbours, and ZeroMQ can {most}",
                       "take a topology of smaller degree")  # fmt: skip
    if need <= allowed:
        return Finding(OK, seen)
    return Finding(FAIL, seen, f"have root raise the hard limit to {need} (nofile in /etc/security/limits.conf; "
                               f"ulimits of a container), or run fewer agents on each host")  # fmt: skip


def memory(here: int, available: int) -> Finding:
    """Memory that agents of a small model take against what is available, both in bytes."""
    need = capacity.bytes_for(here)
    each, base = capacity.AGENT_BYTES // capacity.MIB, capacity.BASE_BYTES // capacity.MIB
    seen = (f"{bytes_text(available)} available; {here} agents take about {bytes_text(need)}: {each} MiB each, and "
            f"{base} MiB for host and launcher")  # fmt: skip
    fit = max(0, (available - capacity.BASE_BYTES) // capacity.AGENT_BYTES)
    fewer = f"at most {fit} agents fit here" if fit else "not even one agent fits here"
    if need > available:
        return Finding(FAIL, seen, f"{fewer}; use several hosts, or free some memory")
    if need > 0.8 * available:
        return Finding(WARN, seen, f"{fewer}, and a larger model or real data take more; free some memory")
    return Finding(OK, seen)


def processes(here: int, of_user: int | None, of_group: int | None) -> Finding:
    """Threads that agents take, each of which the kernel counts as a process, against how many more there may be."""
    need = capacity.tasks_for(here)
    room = min((left for left in (of_user, of_group) if left is not None), default=None)
    allowed = "no limit" if room is None else f"{room} more are allowed"
    seen = f"{need} for {here} agents and their host, threads counted; {allowed}"
    if room is None or need <= room:
        return Finding(OK, seen)
    if room == of_user:
        return Finding(FAIL, seen, "raise ulimit -u, or run fewer agents on each host")
    return Finding(FAIL, seen, "raise pids.max of the control group (pids_limit of a container), or run fewer agents")


# what makes it fast, and what measures it


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


# engines that place hosts


def docker(ask: Ask = ask) -> Finding:
    """The docker daemon and compose, of either generation."""
    only = "only --place compose needs it"
    if not shutil.which("docker") and not shutil.which("docker-compose"):
        return Finding(OK, f"absent; {only}")
    daemon, compose = versions(ask)
    found = [f"{name} {answer.first}" for name, answer in compose.items() if answer.status == 0]
    seen = " and ".join(found) or "no compose"
    if daemon.status != 0:
        said = printable(daemon.last)[:200] or f"exit status {daemon.status}"
        return Finding(WARN, f"{seen}; the daemon: {said}",
                       f"start it, or set DOCKER_HOST, or join the group docker; {only}")  # fmt: skip
    if not found:
        return Finding(WARN, f"docker {daemon.first}, no compose", f"install docker-compose (Debian's name); {only}")
    return Finding(OK, f"docker {printable(daemon.first)}, {printable(seen)}")


def program(name: str, words: list[str], needed: str, ask: Ask = ask) -> Finding:
    """A program that runs elsewhere need, `needed` says which; its absence is no fault."""
    if not shutil.which(name):
        return Finding(OK, f"absent; only {needed} it")
    answer = ask(words)
    if answer.status != 0:
        return Finding(WARN, f"{name} is there, but {' '.join(words)} says: {printable(answer.last)[:200]}",
                       f"mend it if you want it; only {needed} it")  # fmt: skip
    return Finding(OK, printable(answer.first))


def package(name: str, needed: str) -> Finding:
    """The same of a Python package, which is not imported."""
    if not importlib.util.find_spec(name):
        return Finding(OK, f"absent; only {needed} it")
    return Finding(OK, f"{name} {importlib.metadata.version(name)}")


# where things are written


def refusal(path: Path) -> str:
    """Why nothing can be written into a folder that is there, or can be made; "" if it can."""
    try:
        with tempfile.TemporaryFile(dir=nearest(path)):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def nearest(path: Path) -> Path:
    """A path, or what there is of it.

    Raises: OSError, where it may not be looked at.
    """
    path = path.absolute()
    for each in (path, *path.parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(each)
            return each
    return path


def folder(path: Path, otherwise: str, remedy: str) -> Finding:
    """A folder that must be written to; what it means if it cannot be, and what then."""
    if why := refusal(path):
        return Finding(otherwise, f"{path.absolute()} cannot be written to ({why})", f"make it writable, or {remedy}")
    free = shutil.disk_usage(nearest(path)).free
    seen = f"{path.absolute()}: {'writable' if path.exists() else 'can be made'}, {bytes_text(free)} free"
    if free < SOME_FREE:
        return Finding(otherwise if free < LEAST_FREE else WARN, seen, f"free some space, or {remedy}")
    return Finding(OK, seen)


def temporary() -> Finding:
    """The folder for temporary files, where agents of one machine meet."""
    try:
        path = Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        return Finding(FAIL, printable(str(error)), "make /tmp writable, or point TMPDIR to a folder that is")
    if len(os.fsencode(path / SOCKET_NAME)) > SOCKET_PATH_BYTES:
        return Finding(FAIL, f"{path}: too long a name for the sockets in it, whose paths have at most "
                             f"{SOCKET_PATH_BYTES} bytes", "set TMPDIR=/tmp, or use --transport tcp")  # fmt: skip
    return folder(path, FAIL, "set TMPDIR to another")


def cache() -> Finding:
    """Where compiled meta-gradients are kept."""
    from difnet.system.folders import cache_folder

    finding = folder(cache_folder(), WARN, "set DIFNET_CACHE to another; until then every step is traced, and slower")
    kept = len(list(cache_folder().glob("*/kernel.so")))
    return finding._replace(seen=f"{finding.seen}, {kept} compiled kernels") if finding.state == OK else finding


def data_sets(data_dir: str | None) -> Finding:
    """Where data sets lie; it is only read."""
    from difnet.data.home import home

    path = home(data_dir)
    try:
        if not path.exists():
            return Finding(OK, f"{path}: not there; only --task with real data needs it (difnet data get)")
        sets = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    except OSError as error:
        return Finding(WARN, f"{path} cannot be read: {error.strerror}", "make it readable, or give --data-dir DIR")
    return Finding(OK, f"{path}: {', '.join(sets) or 'empty'}")


def two_agents(words: tuple[str, ...] = (), timeout_s: float = SMOKE_S) -> Finding:
    """A real launch of two agents, in a temporary folder; `words` are further ones of its command line."""
    with tempfile.TemporaryDirectory(prefix="difnet-doctor-", ignore_cleanup_errors=True) as runs:
        shown = ["launch", "--topology", "path_graph(n=2)", "--iterations", str(SMOKE_ITERATIONS), *words]
        answer = ask([sys.executable, "-m", "difnet", *shown, "--runs", runs, "--quiet", "--json"], timeout_s)
    again = f"difnet launch --topology 'path_graph(n=2)' --iterations {SMOKE_ITERATIONS} shows more"
    if answer.status != 0:
        return Finding(FAIL, f"two agents did not run: {printable(answer.last)[:300]}", again)
    run = json.loads(answer.last)
    rounds, ready = run["iterations"], time_text(run["ready_s"])
    seen = f"two agents ready after {ready}, {rounds} of {SMOKE_ITERATIONS} rounds, engine {run['engine']}"
    if rounds < SMOKE_ITERATIONS:
        return Finding(FAIL, seen, again)
    return Finding(OK, seen)
