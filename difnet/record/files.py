"""What are the files of a run folder, what is in each, and how is it read? `disk.py` writes them.

JSON's null means unknown and becomes None or NaN.
"""

import csv
import io
import json
import math
import re
import secrets
import tomllib
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from difnet.config import RunConfig
from difnet.errors import ConfigError, RunFolderError
from difnet.maths.digest import intact, sealed
from difnet.record.events import Event, from_dict, standing
from difnet.system.holding import in_use, is_held
from difnet.system.texts import read_text


class TaskScore(NamedTuple):
    """A row of test.csv: how a model, fitted by so many inner steps, did on one test task or client."""

    model: str  # LAUNCH_MODEL or LOCAL_AVERAGE
    task: str
    samples: int  # query samples
    steps: str
    loss: float  # NaN where the folder has no finite one
    accuracy: float  # NaN where the task family has none


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is no file.

    Raises: RunFolderError, if it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        document = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged: {error}") from error
    if not isinstance(document, dict):
        raise RunFolderError(f"{path} is damaged: expected an object, got {type(document).__name__}")
    return document


def read_config(path: Path) -> dict[str, Any]:
    """The table in a TOML file; {} where there is no file.

    Raises: RunFolderError, if it is damaged.
    """
    try:
        return tomllib.loads(read_text(path)) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is damaged: {error}") from error


def read_events(path: Path) -> list[Event]:
    """The events in a JSON-lines file that count (see `events.standing`); a last line without its newline is still
    being written and left out.

    Raises: RunFolderError, naming the damaged line.
    """
    *lines, _unfinished = path.read_bytes().split(b"\n")
    return standing(parse_event(path, number, line) for number, line in enumerate(lines, start=1) if line.strip())


def parse_event(path: Path, number: int, line: bytes) -> Event:
    """The event in one line of a JSON-lines file.

    Raises: RunFolderError, naming the file and the line.
    """
    try:
        return from_dict(json.loads(line))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"unknown kind of event {error}" if isinstance(error, KeyError) else error
        raise RunFolderError(
            f"{path}, line {number}: {reason}. Either the file is damaged or a newer difnet wrote it."
        ) from error


def read_scores(path: Path) -> list[TaskScore]:
    """The rows of test.csv, in order.

    Raises: RunFolderError, if it is damaged.
    """
    def number(text: str) -> float:
        return float(text) if text else float("nan")

    try:
        return [
            TaskScore(row["model"], row["task"], int(row["samples"]), row["steps"], number(row["loss"]),
                  number(row["accuracy"]))
            for row in csv.DictReader(io.StringIO(read_text(path), newline=""))
        ]  # fmt: skip
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else error
        columns = ", ".join(TaskScore._fields)
        raise RunFolderError(f"{path} is damaged: {reason}; expected the columns {columns}") from error


def make_folder(config: RunConfig, now: datetime) -> Path:
    """A new folder for a run, and `latest` beside it pointing there; an older run of that name keeps its own.

    Raises: ConfigError, if it cannot be written; RunFolderError, if a run of that name still goes on.
    """
    stem = config.topology if config.topology.replace("-", "").isalnum() else Path(config.topology).stem.split("(")[0]
    what = re.sub(r"[^\w.-]", "-", f"{stem[:60]}_{config.algorithm.name.rpartition(':')[2][:60]}", flags=re.ASCII)
    name = config.name or f"{now:%Y-%m-%d_%H-%M-%S}_{what}_s{config.seed}"
    runs = Path(config.runs)
    try:
        folder = runs / name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if config.name and is_held(folder):
                raise RunFolderError(in_use(folder)) from None
            folder = runs / f"{name}_{secrets.token_hex(2)}"
            folder.mkdir()
        latest = runs / f".latest-{secrets.token_hex(4)}"
        latest.symlink_to(folder.name)
        latest.replace(runs / "latest")
    except OSError as error:
        raise ConfigError(f"cannot write runs to {runs.resolve()}: {error.strerror}; give another --runs") from error
    return folder.resolve()


def folder_of(agent: int) -> str:
    """Where one agent's files lie in the run folder."""
    return f"agents/{agent:03d}"


def finite_or_none(value: Any) -> Any:
    """The same plain values, with None for every number that is not finite: JSON has no others, and unknown is null.

    >>> finite_or_none({"loss": [1.0, float("inf")], "agents": 6})
    {'loss': [1.0, None], 'agents': 6}
    """
    if isinstance(value, dict):
        return {name: finite_or_none(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV; "" if it has no rows.

    >>> csv_text(("from", "to"), [(0, 1)])
    'from,to\\r\\n0,1\\r\\n'
    """
    rows, text = list(rows), io.StringIO(newline="")
    if rows:
        csv.writer(text).writerows([head, *rows])
    return text.getvalue()


def json_line(record: dict[str, Any]) -> str:
    """A record as one line of JSON."""
    return json.dumps(finite_or_none(record), allow_nan=False) + "\n"


def tensor_bytes(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """A safetensors file with the tensors' digest; not by its own writer, whose files only their owner can read."""
    metadata = metadata | sealed(tensors)
    return safetensors.numpy.save({name: np.ascontiguousarray(t) for name, t in tensors.items()}, metadata)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors in a file of `tensor_bytes`, or of an older difnet, which gave them no digest.

    Raises: RunFolderError, if it is damaged.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise RunFolderError(f"{path} is no safetensors file, or is damaged: {error}; copy it again") from error
    if not intact(tensors, metadata):
        raise RunFolderError(f"{path} is damaged: its values are not those that were written; copy it again")
    return tensors
