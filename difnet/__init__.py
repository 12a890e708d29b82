"""difnet: a network of agents that learns one launch model together without a server.

>>> import difnet
>>> run = difnet.simulate("ring6", iterations=20, eval_tasks=10, engine="eager", runs=tmp)  # or launch: real processes
>>> run.state, int(run.metrics()["iteration"][-1])
('done', 20)
"""

import importlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from difnet.record.run import Run

__all__ = ["launch", "load", "simulate"]


def launch(topology: str = "ring40", **words: Any) -> "Run":
    """Run a network of agent processes; the words are those of `difnet launch`, with underscores.

    `task` may also be data of one's own, as a function of `difnet.tasks` says it: table, images, arrays, from_datasets
    or episodes_from.

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

    with ExitStack() as stack:
        data, task = words.pop("data", None), words.get("task")
        if task is not None and not isinstance(task, str | Mapping):
            words, data = _own(task, words, data, stack)
        place = None if data is None else Path(data)
        asked = settled(config.load(settings={"topology": topology, **words}), place)
        return finding.load(runtime(asked, data=place)["folder"])


def _own(task: Any, words: dict[str, Any], data: Any, stack: ExitStack) -> tuple[dict[str, Any], Any]:
    """A run's words with a task that has data of its own, and where this lies for as long as the stack lasts."""
    from difnet import config
    from difnet.errors import ConfigError
    from difnet.tasks import OwnTask

    if not isinstance(task, OwnTask):
        raise ConfigError(f"task is a {type(task).__name__}; give a name, module:factory, or what a function of "
                          f"difnet.tasks returns, such as difnet.tasks.arrays({{\"ash\": (x, y)}})")  # fmt: skip
    said = task.said(words if data is None else {**words, "data": data})
    config.load(settings=said)  # a wrong word is told before anything is written
    return said, stack.enter_context(task.files())


def __getattr__(name: str) -> Any:
    """`difnet.tasks`, which imports torch, when somebody asks for it."""
    if name == "tasks":
        return importlib.import_module("difnet.tasks")
    raise AttributeError(f"module 'difnet' has no attribute {name!r}")
