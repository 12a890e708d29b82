"""What was dropped of what came to the registry, and how is that told without a flood of words?"""

import time
from collections.abc import Sequence

from difnet.exchange.wire import kind_of

SAY_AGAIN_S = 10.0  # between two words about it


class Refusals:
    """What was dropped: counted, and put into words at most every SAY_AGAIN_S."""

    def __init__(self) -> None:
        self.count = 0
        self._told, self._last, self._say_at = 0, "", 0.0

    def add(self, who: str, why: str) -> None:
        """One more."""
        self.count, self._last = self.count + 1, f"from {who}: {why}"

    def news(self, over: bool = False) -> str:
        """What is to be said of them now, or ""; when all is over, whatever was not said yet."""
        new = self.count - self._told
        if not new or (time.monotonic() < self._say_at and not over):
            return ""
        self._told, self._say_at = self.count, time.monotonic() + SAY_AGAIN_S
        return (f"refused {'a message' if new == 1 else f'{new} messages, the latest'} {self._last}; "
                f"{'it was' if new == 1 else 'they were'} dropped ({self.count} so far)")  # fmt: skip


def advice(frames: Sequence[bytes], version: str) -> str:
    """What to tell a host that asks without our token: it may have mistyped it, or have learnt older manners; else "".

    Args: `version`, the launcher's.
    """
    asks = [kind_of(frame) == "configuration?" for frame in frames[:2]]
    if asks[:1] == [True]:  # the token is inside, where nobody looks any more
        return f"the launcher is difnet {version}, this host is older; install the same version on both"
    if asks[1:] == [True]:
        return "the token is another one than this run's; set DIFNET_TOKEN to what the launcher told"
    return ""
