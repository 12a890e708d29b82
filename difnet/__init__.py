"""difnet: a network of agents that learns one launch model together without a server.

>>> import difnet
>>> run = difnet.simulate("ring6", iterations=20, eval_tasks=10, engine="eager", runs=tmp)  # or launch: real processes
>>> run.state, int(run.metrics()["iteration"][-1])
('done', 20)
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from difnet.record.run import Run

__all__ = ["launch", "load", "simulate"]


def launch(topology: str = "ring40", **words: Any) -> "Run":
    """Run a network of agent processes; the words are those of `difnet launch`, with underscores.

    Returns: the finished run, read from its folder.
    Raises: DifnetError, if it cannot start; a run that failed is returned, and its `state` says so.
    """
    from difnet.runtime.launcher import launch

    return _run(launch, topology, words)


def simulate(topology: str = "ring40", **words: Any) -> "Run":
    """Run the same recursion for all agents in this process; see `launch`."""
    from difnet.runtime.simulation import simulate

    return _run(simulate, topology, words)


def load(run: str = "latest") -> "Run":
    """A finished or running run: a folder, a name in runs/, its beginning, or "latest"."""
    from difnet.record import finding

    return finding.load(finding.resolve(run))


def _run(runtime: Any, topology: str, words: dict[str, Any]) -> "Run":
    from difnet import config
    from difnet.data.agreement import settled
    from difnet.record import finding

    data = Path(words.pop("data")) if "data" in words else None
    asked = settled(config.load(settings={"topology": topology, **words}), data)
    return finding.load(runtime(asked, data=data)["folder"])
