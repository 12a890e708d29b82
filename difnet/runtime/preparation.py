"""What have the hosts told of a run before its first iteration? Pure."""

from collections.abc import Mapping
from typing import Any

from difnet.places import agents_text


def facts(prepared: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What is known of the run: the facts of the host that has agent 0, and the machine of each.

    Args: `prepared`, by host: agents, environment, facts.
    """
    first = next(told for told in prepared.values() if 0 in told["agents"])
    hosts = {name: {"agents": agents_text(told["agents"]), **told["environment"]} for name, told in prepared.items()}
    environment = first["environment"] | ({"hosts": hosts} if len(hosts) > 1 else {})
    return first["facts"] | {"environment": environment}


def checkpoints(prepared: Mapping[str, dict[str, Any]], agents: int) -> dict[int, list[int]] | None:
    """Agent -> the iterations of which it has a checkpoint; None until the hosts of all agents have told.

    >>> checkpoints({"one": {"agents": [0, 1], "checkpoints": {"0": [10, 20]}}}, 2)
    {0: [10, 20]}
    >>> checkpoints({"one": {"agents": [0], "checkpoints": {"0": [10, 20]}}}, 2)
    """
    if sum(len(told["agents"]) for told in prepared.values()) < agents:
        return None
    return {int(k): iterations for told in prepared.values() for k, iterations in told["checkpoints"].items()}
