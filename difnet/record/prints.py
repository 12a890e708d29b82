"""How much of what agents print does a run folder keep?"""

from collections import Counter
from collections.abc import Callable

from difnet.record.disk import Disk
from difnet.record.files import folder_of
from difnet.record.formatting import bytes_text

LOG_BYTES = 16 * 2**20  # of each agent


class Prints:
    """What the agents of one run print, in their folders.

    Args: `note` hears of whose further words are not kept.
    """

    def __init__(self, disk: Disk, note: Callable[[str], None]) -> None:
        self._disk, self._note = disk, note
        self._logged: Counter[int] = Counter()  # bytes that each agent has printed and that are kept,
        self._dropped: Counter[int] = Counter()  # and others

    def take(self, agent: int, text: str) -> None:
        """Keep what an agent's process printed, the first LOG_BYTES of it; of the rest it is told how much it was."""
        size = len(text.encode())
        if not self._dropped[agent]:
            kept = text.encode()[: LOG_BYTES - self._logged[agent]].decode(errors="ignore")
            self._keep(agent, kept)
            size -= len(kept.encode())
            self._logged[agent] += len(kept.encode())
            if size:
                self._keep(agent, f"\n[difnet: what agent {agent} prints from here on is not kept]\n")
                self._note(f"agent {agent} has printed more than {bytes_text(LOG_BYTES)}; the rest is not kept")
        self._dropped[agent] += size

    def finish(self) -> None:
        """Tell how much was not kept."""
        for agent, size in self._dropped.items():
            if size:
                self._keep(agent, f"[difnet: {size} bytes were not kept]\n")

    def _keep(self, agent: int, text: str) -> None:
        self._disk.append(f"{folder_of(agent)}/log.txt", text)
