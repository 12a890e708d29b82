"""Which processes of this machine are a run's launcher, its host and its agents? And how far has the run come?"""

import json
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from difnet.errors import RunFolderError
from difnet.record.files import read_json
from difnet.system.holding import holder, is_held
from difnet.system.lifetime import AGENT

TOLD = (b'{"event": "Ready"', b'{"event": "Pulse"', b'{"event": "Resumed"', b'{"event": "NeighbourBack"',
        b'{"event": "LinkHealed"')


class Network(NamedTuple):
    """Who is whose neighbour, as far as that decides what can be broken."""

    agents: int
    hub: int | None
    edges: tuple[tuple[int, int], ...]

    def listener(self, edge: frozenset[int]) -> int:
        """The end of an edge that listens; the other one dials: the rim the hub, the higher number the lower."""
        return self.hub if self.hub is not None and self.hub in edge else min(edge)


def network(folder: Path) -> Network:
    """The network of a run.

    Raises: RunFolderError, if its folder does not tell.
    """
    told = read_json(folder / "topology.json")
    if "agents" not in told:
        raise RunFolderError(f"{folder} has no topology.json that says which agents there are; has its run begun?")
    edges = {(min(a, b), max(a, b)) for a, b in told.get("edges", ()) if a != b}
    return Network(told["agents"], told.get("hub"), tuple(sorted(edges)))


class Victims:
    """The processes of a run that goes on on this machine.

    Raises: RunFolderError, if nothing runs in that folder, or somebody else's, or elsewhere.
    """

    def __init__(self, folder: Path) -> None:
        by = holder(folder)
        if by is None:
            raise RunFolderError(f"nothing runs in {folder}; `difnet ps` lists what does")
        if not by.is_here:
            raise RunFolderError(f"{folder} is held by {by}, which cannot be seen from here: break it there")
        if Path(f"/proc/{by.pid}").stat().st_uid != os.getuid():
            raise RunFolderError(f"{folder} is held by {by}: only {by.user} may break it")
        self.folder, self.launcher = folder, by.pid
        self._host: psutil.Process | None = None

    @property
    def are_there(self) -> bool:
        """Whether the run goes on."""
        return is_held(self.folder)

    def host(self) -> int | None:
        """The process that has forked the agents; None as long as there is none."""
        if self._host is None or not self._host.is_running():
            self._host = None
            with suppress(psutil.Error):
                for child in psutil.Process(self.launcher).children():
                    with suppress(psutil.Error):
                        if child.environ().get("DIFNET_RUN_ID") == self.folder.resolve().name:
                            self._host = child
        return self._host.pid if self._host else None

    def sockets(self) -> Path | None:
        """The folder of the sockets at which agents listen; None where they have ports, or there is no host yet."""
        self.host()
        meeting = ""
        with suppress(psutil.Error):
            meeting = self._host.environ().get("DIFNET_REGISTRY", "") if self._host else ""
        return Path(meeting.removeprefix("ipc://")).parent if meeting.startswith("ipc://") else None

    def agents(self) -> dict[int, int]:
        """Agent -> process, of those that are there now; they bear their number as their name."""
        found: dict[int, int] = {}
        if (host := self.host()) is None:
            return found
        for entry in os.listdir("/proc"):
            with suppress(OSError, ValueError, IndexError):
                if not entry.isdigit():
                    continue
                name, _, rest = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(") ")
                name, state, parent = name.partition(" (")[2], rest.split()[0], int(rest.split()[1])
                if parent == host and name.startswith(AGENT) and state not in "ZX":
                    found[int(name.removeprefix(AGENT))] = int(entry)
        return found


class Course:
    """How far a run has come, read from its events as they are written."""

    def __init__(self, folder: Path) -> None:
        self._path, self._read = folder / "events.jsonl", 0
        self.has_begun, self.iteration = False, 0
        self.returns: Counter[frozenset[int]] = Counter()  # of edges, as each of their ends has told

    def look(self) -> None:
        """Read on."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                if line.startswith(TOLD):
                    with suppress(ValueError, KeyError, TypeError):
                        self._hear(json.loads(line))

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "Pulse":
            self.iteration = int(event["iteration"])
        elif event["event"] in ("NeighbourBack", "LinkHealed"):
            self.returns[frozenset((event["agent"], event["neighbour"]))] += 1
        else:
            self.has_begun = event["event"] == "Ready"  # one that goes on is made ready once more
