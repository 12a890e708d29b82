"""Hosts that somebody else starts: by hand on several machines, or as the services of a compose file."""

import os
from typing import Self

from difnet.config import RunConfig
from difnet.exchange.addresses import endpoint_of, own, parse
from difnet.places import Contract, agents_text, into_blocks

LISTEN = "tcp://0.0.0.0:5600"


class Expected:
    """Nothing is started here: the user is told what to start, and the registry waits."""

    sees_data = True  # the schema is read from it; each host has its own
    lives_on = True  # hosts that nobody here has started may outlive the launcher

    def __init__(self, config: RunConfig, agents: int) -> None:
        self.meeting = config.registry or LISTEN
        self._shares = into_blocks(agents, min(config.hosts_expected or 1, agents))
        host, port = parse(self.meeting)
        self._data = " --data DIR" if "schema" in config.task.options else ""  # each host's own
        self._registry = endpoint_of(own() if host in ("0.0.0.0", "::", "*") else host, port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def plan(self) -> str:
        """The command for each host; any other division of the agents will do too."""
        return self._commands("$DIFNET_TOKEN")

    def _commands(self, token: str) -> str:
        return "\n".join(f"DIFNET_TOKEN={token} difnet host --agents {agents_text(share)} --registry {self._registry}"
                         f"{self._data}" for share in self._shares)  # fmt: skip

    def start(self, contract: Contract) -> str:
        """Say what to start, unless the token came from the environment: who set it there has hosts that know it."""
        if os.environ.get("DIFNET_TOKEN"):
            return f"listening at {self.meeting} for hosts; --dry-run tells how each is started"
        commands = self._commands(contract.token)
        return f"listening at {self.meeting}; start on each host, with its own agents:\n{commands}"

    def poll(self) -> int | None:
        """Unknown: only what hosts tell the registry is known of them."""
        return None

    def stop(self, at_once: bool = False) -> None:
        """Nothing: hosts end when the registry says so, or when it is gone."""

    def logs(self) -> str:
        """Nothing: hosts print where they were started."""
        return ""


def expected(config: RunConfig, agents: int) -> Expected:
    """Wait for hosts that somebody else starts."""
    return Expected(config, agents)
