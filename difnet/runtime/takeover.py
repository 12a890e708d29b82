"""Does the network of a launcher that was killed still live, and may this launcher go on with it?"""

import time
from collections.abc import Sequence
from pathlib import Path

from difnet.errors import CheckpointError, ConfigError
from difnet.exchange.registry import Registry, Told
from difnet.record import succession
from difnet.record.events import Resumed
from difnet.record.past import NO_CHECKPOINTS, Past
from difnet.record.recorder import Recorder
from difnet.record.succession import FILE, Succession
from difnet.system.lifetime import say_alive

LOOK_S = 5.0  # agents and hosts ask for their launcher once a second
SIGNS = ("beat", "adopted")  # with which a host and an agent of that network are heard


class Legacy:
    """What this launcher leaves to another, if it is killed: kept up to date while the network lives."""

    def __init__(self, folder: Path, meeting: str, token: str, place: str) -> None:
        self._folder, self._meeting, self._token, self._place = folder, meeting, token, place

    def keep(self, registry: Registry, recorder: Recorder) -> None:
        """Have it on disk, once the network has started, and whenever it changes."""
        if not (registry.started and registry.members.is_changed and recorder.facts):
            return
        registry.members.is_changed = False
        facts = {name: fact for name, fact in recorder.facts._asdict().items() if name != "ready_s"}
        told = Succession(self._meeting, self._token, registry.run["life"], self._place, facts | {"manifest": None},
                          registry.members.told())  # fmt: skip
        if why := succession.keep(self._folder, told):
            recorder.note(f"cannot write {FILE}: {why}; if this launcher is killed, no other can take its place")


def silent_s(folder: Path) -> float:
    """For how long nothing was recorded of a run."""
    path = folder / "events.jsonl"
    return max(0.0, time.time() - path.stat().st_mtime) if path.is_file() else 0.0


def check_reach(past: Past, told: Succession, meeting: str, token: str) -> None:
    """A network that may still live must be looked for where it looks for its launcher, with its token.

    Raises: ConfigError, if it would not be.
    """
    left_s = past.config.orphan_s - silent_s(past.folder)
    same = {"--registry": meeting == told.meeting, "DIFNET_TOKEN": token == told.token,
            "--place": past.config.place == told.place}  # fmt: skip
    wrong = [f"{name} is another one" for name, is_same in same.items() if not is_same]
    if wrong and left_s > 0:
        raise ConfigError(f"the hosts of {past.folder.name} may still live, and wait for a launcher at {told.meeting}: "
                          f"{', '.join(wrong)}, and a second network would begin beside theirs; leave that away, or "
                          f"wait {left_s:.0f} s until they have ended")  # fmt: skip


def look(past: Past, told: Succession, registry: Registry, recorder: Recorder, stop: Sequence[int]) -> list[Told]:
    """Listen for the network for a few seconds. Returns what was heard; nothing where nobody lives.

    The registry then goes on as that network's, or with none.

    Raises: CheckpointError, if nobody lives, and the run has no checkpoints either.
    """
    first = max((e.iteration for e in past.of(Resumed)[-1:]), default=0)
    registry.inherit(told.members, first, told.facts["length"])
    registry.is_undecided, heard, until = True, list[Told](), time.monotonic() + LOOK_S
    recorder.hear_only(f"looking for the network of {past.folder.name}, which may still live")
    while time.monotonic() < until and not stop:
        say_alive()
        heard += registry.listen(0.1)
        if any(kind in SIGNS for kind, *_ in heard):
            registry.is_undecided = False
            return heard
    registry.disown()
    registry.is_undecided = False
    recorder.hear_only("nobody of it was heard; the run goes on from checkpoints")
    if past.config.checkpoint_every == 0:
        raise CheckpointError(f"{past.folder} cannot be resumed: {NO_CHECKPOINTS}, and its network lives no more")
    return []


def check_changes(past: Past, first: int | None) -> None:
    """What a network that lives was told cannot be changed.

    Raises: ConfigError, if that is asked for; the network goes on looking for a launcher.
    """
    changes = [f"--{name.replace('_', '-')}" for name in past.changed] + (["--from"] if first is not None else [])
    if changes:
        raise ConfigError(f"the network of {past.folder.name} still lives, and goes on as it was launched: leave "
                          f"{', '.join(changes)} away to listen to it again, or end it first (resume it, Ctrl-C)")
