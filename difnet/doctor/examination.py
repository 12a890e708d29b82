"""What do all checks of this machine find?"""

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from difnet.doctor import capacity
from difnet.doctor.capacity import descriptors, memory, processes
from difnet.doctor.engines import docker, package, program
from difnet.doctor.finding import FAIL, WARN, Finding
from difnet.doctor.folders import cache, data_sets, folder, temporary
from difnet.doctor.hardware import compiler, gpu, powercap
from difnet.doctor.smoke import two_agents
from difnet.doctor.software import python, requirement, torch_here, zeromq
from difnet.record.formatting import printable
from difnet.system import energy

if TYPE_CHECKING:
    from difnet.topology import Topology


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
