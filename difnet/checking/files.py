"""Is what lies in a run's folder whole and finite, and is nothing left of the run on this machine?"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from difnet.checking.evidence import Evidence
from difnet.checking.verdicts import Finding, judged, number_of
from difnet.errors import CheckpointError, RunFolderError
from difnet.launch_models import FILE
from difnet.record.checkpoints import opened, shelves_folder
from difnet.record.events import RunEnded
from difnet.record.files import folder_of, read_tensors
from difnet.system.remains import left_folders, left_processes

SUM = 1e-9  # within which columns of A sum to one


def record(known: Evidence) -> list[Finding]:
    """Every line can be read, nothing is missing, and the summary is that with which the events end."""
    wrong, s = [*known.damaged], known.summary
    if lost := s.get("lost_records"):
        wrong.append(("run.json", f"{number_of(lost, 'record')} could not be written"))
    wrong += [(name, "could not be written") for name in s.get("unwritten") or ()]
    ended = known.of(RunEnded)
    if s and known.events and not ended and not lost:
        wrong.append(("events.jsonl", "it has no end, though run.json tells of one"))
    elif ended and (ended[-1].state != s.get("state") or ended[-1].summary != s) and not s.get("unwritten"):
        wrong.append(("run.json", "it is not the summary with which events.jsonl ends"))
    lines = len(known.events) + sum(map(len, known.own.values()))
    resumed = f", resumed {number_of(len(known.lives) - 1, 'time')}" if len(known.lives) > 1 else ""
    what = f"{number_of(lines, 'record')} of the run and {number_of(len(known.own), 'agent')}{resumed}"
    return judged("record", what, wrong, "" if lines or s else "there is nothing that can be read")


def weights(known: Evidence) -> list[Finding]:
    """A has no negative entry, and its columns sum to one: so do the weights of a round in which nobody is missed."""
    if known.weights is None or not known.agents:
        return judged("weights", "", [], "topology.json has no A that can be read")
    l, k, values = known.weights
    wrong = [(f"A[{l[n]}, {k[n]}]", f"it is {values[n]}") for n in np.flatnonzero(~(values >= 0))]
    sums = np.bincount(k, weights=values, minlength=known.agents)
    wrong += [(f"column {n}", f"its sum is {sums[n]!r}") for n in np.flatnonzero(~(np.abs(sums - 1) <= SUM))]
    return judged("weights", f"{number_of(known.agents, 'column')} of A, {len(values)} weights", wrong)


def states(known: Evidence) -> list[Finding]:
    """Every state and model has the digest with which it was written, and finite values alone; nobody's is missing."""
    folder, wrong = known.folder, list[tuple[str, str]]()
    paths = [*sorted(folder.glob("agents/*/state-*.safetensors")), *sorted(folder.glob("*.safetensors"))]
    for path in paths:
        try:
            tensors = read_tensors(path)
        except RunFolderError as error:
            if path.exists() or not known.goes_on:
                wrong.append((str(path.relative_to(folder)), str(error)))
            continue
        if endless := [name for name, values in tensors.items() if not np.isfinite(values).all()]:
            wrong.append((str(path.relative_to(folder)), f"{', '.join(endless)} is not finite"))
    if known.summary.get("state") == "done":
        lost = set(known.summary.get("lost_agents") or ())
        wrong += [(folder_of(k), "it has no last state, though the agent ended well") for k in range(known.agents)
                  if k not in lost and not any(folder.glob(f"{folder_of(k)}/state-*.safetensors"))]  # fmt: skip
        if not (folder / FILE).is_file():
            wrong.append((FILE, "it is missing, though the run is done"))
    return judged("states", number_of(len(paths), "file"), wrong, "" if paths else "there is no state and no model yet")


def checkpoints(known: Evidence) -> list[Finding]:
    """Every checkpoint can be read, is of this run and of the agent in whose folder it lies, and is finite."""
    run, wrong = str(known.identity.get("id") or ""), list[tuple[str, str]]()
    shelves = dict.fromkeys([known.folder, shelves_folder(run, str(known.folder)) if run else known.folder])
    paths = sorted(path for shelf in shelves for path in shelf.glob("agents/*/checkpoint-*.safetensors"))
    for path in paths:
        try:
            manifest, w, slots = opened(path)
        except (CheckpointError, KeyError, TypeError) as error:
            if path.exists() or not known.goes_on:  # else an agent has newer ones, and has removed it
                wrong.append((_named(path), str(error)))
            continue
        if (manifest.run, f"{manifest.agent:03d}") != (run or manifest.run, path.parent.name):
            wrong.append((_named(path), f"it is of agent {manifest.agent} of run {manifest.run}"))
        if path.stem != f"checkpoint-{manifest.iteration:06d}":
            wrong.append((_named(path), f"it is of iteration {manifest.iteration}"))
        if not all(np.isfinite(values).all() for values in (w, *slots)):
            wrong.append((_named(path), "it is not finite"))
    return judged("checkpoints", number_of(len(paths), "file"), wrong, "" if paths else
                  "there is none in its folder, nor where this machine keeps others")  # fmt: skip


def _named(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def remains(known: Evidence) -> list[Finding]:
    """No process, lock, socket or temporary file of a run that has ended is left on this machine.

    A port is held by its process, so where no process is left no port is.
    """
    if not known.has_ended:
        return judged("remains", "", [], "the run goes on" if known.goes_on else
                      "the run says nothing of its end; `difnet ps` tells what goes on")  # fmt: skip
    key, folder = str(known.identity.get("id") or "of no run"), known.folder
    before = (folder / "run.json").stat().st_mtime if (folder / "run.json").is_file() else float("inf")
    found, looked, closed = left_processes("DIFNET_RUN_KEY", key, before)
    wrong = [(f"process {pid}", f"it is of this run, and lives on: {name}") for pid, name in found]
    if known.goes_on:
        wrong.append(("lock.json", "the folder is held, though the run says that it has ended; if that was this very "
                                   "moment, check again"))  # fmt: skip
    else:
        wrong += [(str(path), "sockets of its launcher, which has ended")
                  for path in left_folders(folder, Path(tempfile.gettempdir()), "difnet-")]  # fmt: skip
    wrong += [(str(path.relative_to(folder)), "a file that was never finished") for path in _unfinished(folder)]
    unseen = f" ({closed} of other users could not be looked at)" if closed else ""
    return judged("remains", f"{looked} processes of this machine{unseen}, "
                             f"the lock, sockets in {tempfile.gettempdir()}, unfinished files", wrong)  # fmt: skip


def _unfinished(folder: Path) -> Iterator[Path]:
    for path in sorted([*folder.glob(".*.part"), *folder.glob("agents/*/.*.part")]):
        if re.fullmatch(r"\..+\.part", path.name):
            yield path
