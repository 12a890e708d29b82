"""How much of a machine does a network of agents take, and is there so much to be had?

The figures per agent are measured; a test measures them again on real processes.
"""

import math
import os
import re
import resource
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from difnet.doctor.finding import FAIL, OK, WARN, Finding
from difnet.record.formatting import bytes_text

if TYPE_CHECKING:
    from difnet.topology import Topology

MIB = 2**20
AGENT_BYTES = 24 * MIB  # docs/benchmarks.md: a ring of 40 takes 23.1 MiB per agent, shared pages divided among all
BASE_BYTES = 400 * MIB  # a process with everything loaded, there at most 313 MiB, and the launcher's 70, rounded up
AGENT_TASKS, BASE_TASKS = 6, 10  # threads, as the kernel counts them: of an agent; of launcher and host together
SPARE_DESCRIPTORS = 8  # what a shell leaves open, and files that are open for a moment
MOST_DIALLED = 340  # ZeroMQ allows 1023 sockets in a context: one listens, each dialled neighbour takes three
CONTROL_GROUP_FILES = {  # what -> (limit, use, what of the use can be had back) by version of control groups
    "memory": {2: ("memory.max", "memory.current", "inactive_file"),
               1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")},
    "pids": {2: ("pids.max", "pids.current", ""), 1: ("pids.max", "pids.current", "")},
}  # fmt: skip


def descriptors_for(topology: "Topology", here: int) -> dict[str, int]:
    """The most file descriptors that the launcher, the host of `here` agents, and the busiest agent have open.

    A ZeroMQ context has five of its own, a socket one, a connection one, a watched socket two more; the host holds
    two for each agent, by which it hears what that prints and that it has ended.
    """
    busiest, sockets = max(
        ((k, accepted + 4 * dialled) for k, (accepted, dialled) in links(topology).items()), key=lambda pair: pair[1]
    )
    hosts = math.ceil(topology.agents / here)
    return {
        "launcher": 11 + topology.agents + hosts + SPARE_DESCRIPTORS,
        "host": 11 + 2 * here + SPARE_DESCRIPTORS,
        f"agent {busiest}": 18 + sockets + SPARE_DESCRIPTORS,
    }


def links(topology: "Topology") -> dict[int, tuple[int, int]]:
    """Agent -> how many connections it accepts, and how many it dials."""
    from difnet.exchange.links import links_of

    dials = {k: [link.dials for link in links_of(k, topology)] for k in range(topology.agents)}
    return {k: (len(each) - sum(each), sum(each)) for k, each in dials.items()}


def bytes_for(agents: int) -> int:
    """Memory for so many agents of a small model on one machine, their host and the launcher, in bytes."""
    return BASE_BYTES + agents * AGENT_BYTES


def tasks_for(agents: int) -> int:
    """Threads of so many agents on one machine, their host and the launcher."""
    return BASE_TASKS + agents * AGENT_TASKS


def bytes_left() -> int:
    """Bytes that this process and its children may still take: the machine's, or the control group's if it has less."""
    of_group = left_in_control_groups("memory")
    available = psutil.virtual_memory().available
    return available if of_group is None else min(available, of_group)


def left_in_control_groups(
    what: str, membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """What the limits of this process's control groups, and of those around them, leave; None without limits.

    Args: `what` is "memory" (bytes) or "pids" (threads).
    """
    left = []
    for line in membership.read_text().splitlines() if membership.exists() else []:
        _, controllers, path = line.split(":", 2)
        version, base = (1, root / controllers) if controllers else (2, root)
        if controllers and what not in controllers.split(","):
            continue
        limit, use, reclaimable = CONTROL_GROUP_FILES[what][version]
        group = base / path.lstrip("/")
        for folder in [group, *group.parents][: len(group.parts) - len(base.parts) + 1]:
            with suppress(OSError, ValueError):  # no such file, or "max"
                left.append(int((folder / limit).read_text()) - int((folder / use).read_text()))
                found = re.search(rf"^{reclaimable} (\d+)", (folder / f"{what}.stat").read_text(), re.MULTILINE)
                left[-1] += int(found[1]) if found else 0
    return max(0, min(left)) if left else None


def tasks_left() -> tuple[int | None, int | None]:
    """How many more threads this user may have, and this control group; None without a limit."""
    limit, user = resource.getrlimit(resource.RLIMIT_NPROC)[0], os.getuid()
    of_group = left_in_control_groups("pids")
    if limit == resource.RLIM_INFINITY or user == 0:  # the kernel does not hold root to it
        return None, of_group
    running = psutil.process_iter(["uids", "num_threads"])
    threads = [p.info["num_threads"] or 1 for p in running if p.info["uids"] and p.info["uids"].real == user]
    return limit - sum(threads), of_group


def descriptors(topology: "Topology", here: int, most: int) -> Finding:
    """File descriptors that a run needs, in the process that needs most, against what one process may have."""
    by_process = descriptors_for(topology, here)
    need = max(by_process.values())
    allowed = math.inf if most == resource.RLIM_INFINITY else most
    who = ", ".join(f"{name} takes {count}" for name, count in by_process.items())
    seen = f"{topology.name} with {here} agents here: {who}; a process may have {allowed:.0f}"
    dialled = max(dialled for _, dialled in links(topology).values())
    if dialled > MOST_DIALLED:
        return Finding(FAIL, f"{seen}; an agent would dial {dialled} neighbours, and ZeroMQ can {MOST_DIALLED}",
                       "take a topology of smaller degree")  # fmt: skip
    if need <= allowed:
        return Finding(OK, seen)
    return Finding(FAIL, seen, f"have root raise the hard limit to {need} (nofile in /etc/security/limits.conf; "
                               f"ulimits of a container), or run fewer agents on each host")  # fmt: skip


def memory(here: int, available: int) -> Finding:
    """Memory that agents of a small model take against what is available, both in bytes."""
    need = bytes_for(here)
    each, base = AGENT_BYTES // MIB, BASE_BYTES // MIB
    seen = (f"{bytes_text(available)} available; {here} agents take about {bytes_text(need)}: {each} MiB each, and "
            f"{base} MiB for host and launcher")  # fmt: skip
    fit = max(0, (available - BASE_BYTES) // AGENT_BYTES)
    fewer = f"at most {fit} agents fit here" if fit else "not even one agent fits here"
    if need > available:
        return Finding(FAIL, seen, f"{fewer}; use several hosts, or free some memory")
    if need > 0.8 * available:
        return Finding(WARN, seen, f"{fewer}, and a larger model or real data take more; free some memory")
    return Finding(OK, seen)


def processes(here: int, of_user: int | None, of_group: int | None) -> Finding:
    """Threads that agents take, each of which the kernel counts as a process, against how many more there may be."""
    need = tasks_for(here)
    room = min((left for left in (of_user, of_group) if left is not None), default=None)
    allowed = "no limit" if room is None else f"{room} more are allowed"
    seen = f"{need} for {here} agents and their host, threads counted; {allowed}"
    if room is None or need <= room:
        return Finding(OK, seen)
    if room == of_user:
        return Finding(FAIL, seen, "raise ulimit -u, or run fewer agents on each host")
    return Finding(FAIL, seen, "raise pids.max of the control group (pids_limit of a container), or run fewer agents")
