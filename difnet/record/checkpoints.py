"""What is a checkpoint of an agent, and which of those in a folder can be used?

One file holds what the agent carries from one iteration to the next, and a manifest that says whose it is and of what;
one digest covers both. It is written aside, synced and renamed, and its folder synced: whoever reads finds a whole file
or none, also after a crash of the machine.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from difnet.errors import CheckpointError, RunFolderError
from difnet.maths.digest import sealed
from difnet.record.disk import put_whole
from difnet.system.folders import state_folder

SCHEMA = 1
KEPT_S = 30 * 86400.0  # how long the checkpoints of a run stay that nobody resumes, where they are not in its folder
IDENTITY = "identity.json"  # of a run folder: which run it is, whatever it is called
OF_THE_RECORD = frozenset({
    "iterations", "eval_every", "eval_tasks", "measure_every", "eval_steps", "eval_shots", "eval_queries", "test_tasks",
    "launch_model", "target", "data_dir", "communication", "engine", "place", "hosts_expected", "agents_per_host",
    "registry", "transport", "orphan_s", "ready_timeout_s", "silence_s", "step_timeout_s", "return_s", "on_failure",
    "max_lost", "quorum", "checkpoint_every", "checkpoint_s", "runs", "name", "simulator", "agents",
})  # fmt: skip


class Manifest(NamedTuple):
    """Whose checkpoint it is, and of what."""

    run: str  # its id
    agent: int
    iteration: int  # done when it was written
    settings: str  # a hash of what decides what is computed: see `settings_of`
    topology: str  # hashes, as the next two
    weights: str
    model: str
    totals: dict[str, Any]  # what the agent has done and sent so far
    schema: int = SCHEMA

    def mismatch(self, other: "Manifest") -> str:
        """What makes a checkpoint of `other` useless here, in words; "" if nothing does."""
        for name in ("run", "agent", "settings", "topology", "weights", "model"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                return f"it is of another {name}: {theirs}, and here it is {ours}"
        return ""


class Checkpoint(NamedTuple):
    """An agent between two iterations."""

    manifest: Manifest
    w: np.ndarray  # (L,)
    slots: tuple[np.ndarray, ...]  # the optimiser's state and the like


class Shelf:
    """The checkpoints of one agent, in one folder.

    Args: `expected`, the manifest that they must fit; its iteration and totals are nobody's.
    """

    def __init__(self, folder: Path, expected: Manifest) -> None:
        self.folder, self.expected = folder, expected

    def path(self, iteration: int) -> Path:
        """Where the checkpoint of an iteration lies."""
        return self.folder / f"checkpoint-{iteration:06d}.safetensors"

    def iterations(self) -> list[int]:
        """Those that lie there, rising, whole or not."""
        named = (path.stem.removeprefix("checkpoint-") for path in self.folder.glob("checkpoint-*.safetensors"))
        return sorted(int(number) for number in named if number.isdecimal())

    def write(self, iteration: int, totals: dict[str, Any], w: np.ndarray, slots: Sequence[np.ndarray]) -> int:
        """Put a checkpoint there. Returns its bytes.

        Raises: OSError, if the disk does not take it; those that were there before still are.
        """
        manifest = self.expected._replace(iteration=iteration, totals=totals)
        content = _content(Checkpoint(manifest, w, tuple(slots)))
        self.folder.mkdir(parents=True, exist_ok=True)
        put_whole(self.path(iteration), content)
        _sync(self.folder)
        return len(content)

    def read(self, iteration: int) -> Checkpoint:
        """The checkpoint of an iteration.

        Raises: CheckpointError, naming the file, if it is truncated, changed, of another run or agent, or of a newer
            difnet.
        """
        path = self.path(iteration)
        found = opened(path)
        if wrong := self.expected.mismatch(found.manifest):
            raise CheckpointError(f"{path} cannot be used: {wrong}")
        if found.manifest.iteration != iteration:
            raise CheckpointError(f"{path} cannot be used: it is of iteration {found.manifest.iteration}")
        return found

    def usable(self) -> tuple[list[int], list[str]]:
        """The iterations whose checkpoints can be used, rising, and why each of the others cannot."""
        good, refused = [], []
        for iteration in self.iterations():
            try:
                self.read(iteration)
                good.append(iteration)
            except CheckpointError as error:
                refused.append(str(error))
        return good, refused

    def keep(self, iterations: Iterable[int]) -> None:
        """Remove all others, and what a write that was cut short has left."""
        kept = {self.path(i) for i in iterations}
        for path in [*self.folder.glob("checkpoint-*.safetensors"), *self.folder.glob(".checkpoint-*.part")]:
            if path not in kept:
                path.unlink(missing_ok=True)


def _content(checkpoint: Checkpoint) -> bytes:
    tensors = {"w": checkpoint.w, **{f"slot.{n}": slot for n, slot in enumerate(checkpoint.slots)}}
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    manifest = json.dumps(checkpoint.manifest._asdict(), sort_keys=True)
    return safetensors.numpy.save(tensors, {"manifest": manifest} | sealed(tensors, manifest))


def opened(path: Path) -> Checkpoint:
    """The checkpoint in a file, whosever it is.

    Raises: CheckpointError, naming the file, if it is truncated, changed, or of a newer difnet.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = json.loads(metadata["manifest"])
        schema = told["schema"]
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be used: it is damaged or cut short ({error})") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be used: it has no manifest of ours") from error
    if sealed(tensors, metadata["manifest"]).items() - metadata.items():
        raise CheckpointError(f"{path} cannot be used: it is damaged, its values are not those that were written")
    if schema != SCHEMA:
        raise CheckpointError(f"{path} cannot be used: a newer difnet wrote it (schema {schema}, here {SCHEMA}); "
                              f"install that one")  # fmt: skip
    slots = tuple(tensors[f"slot.{n}"] for n in range(len(tensors) - 1))
    return Checkpoint(Manifest(**told), tensors["w"], slots)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's configuration decides what is computed, and not how long, where, or what is recorded of it.

    >>> settings_of({"seed": 3, "iterations": 100, "place": "local"})
    {'seed': 3}
    """
    return {name: value for name, value in config.items() if name not in OF_THE_RECORD}


def identify(folder: Path) -> str:
    """The id of the run in a folder.

    Raises: RunFolderError, if it has none: it is no run, or of an older difnet.
    """
    try:
        told = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunFolderError(f"{folder} cannot be resumed: its {IDENTITY} is missing or damaged ({error}); runs of "
                          f"`difnet launch` have one") from error  # fmt: skip
    return str(told)


def shelves_folder(run: str, folder: str) -> Path:
    """Where this machine keeps the checkpoints of a run's agents.

    In $DIFNET_CHECKPOINTS, if it is set; in the run's own folder, if that can be seen from here; else in the user's
    state folder.

    Args: `run`, its id; `folder`, where the launcher sees the run's folder.
    """
    if asked := os.environ.get("DIFNET_CHECKPOINTS"):
        return Path(asked) / run
    with suppress(RunFolderError):
        if identify(Path(folder)) == run:
            return Path(folder)
    return state_folder() / "checkpoints" / run


def sweep(shelves: Path, now: float) -> None:
    """Remove the checkpoints of runs that nobody has written for so long that nobody will resume them.

    Args: `shelves`, where the run at hand has its own, beside others; what is not of a run like it is left alone.
    """
    for other in shelves.parent.glob("*/agents"):
        files = [*other.glob("*/checkpoint-*.safetensors")]
        if is_id(other.parent.name) and files and all(now - path.stat().st_mtime > KEPT_S for path in files):
            shutil.rmtree(other.parent, ignore_errors=True)


def is_id(name: str) -> bool:
    """Whether a folder is called as a run's checkpoints are.

    >>> is_id("00c0ffee00c0ffee"), is_id("2026-11-28_ring6")
    (True, False)
    """
    return re.fullmatch(r"[0-9a-f]{16}", name) is not None


def shelf_of(shelves: Path, expected: Manifest) -> Shelf:
    """An agent's own shelf there."""
    return Shelf(shelves / "agents" / f"{expected.agent:03d}", expected)
