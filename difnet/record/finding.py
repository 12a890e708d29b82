"""Which run does a word mean? Finds its folder, reads it, and follows it while it grows."""

import time
from collections.abc import Iterator
from pathlib import Path

from difnet.errors import RunFolderError, did_you_mean
from difnet.record.events import Event, RunEnded
from difnet.record.files import parse_event, read_config, read_events, read_json
from difnet.record.run import Run


def load(path: str | Path) -> Run:
    """The run in a folder; also of one that is still on its way or was torn off, whose last line may be half written.

    Raises: RunFolderError, if it is no run folder or one of its files is damaged.
    """
    folder = Path(path)
    if not is_run(folder):
        raise RunFolderError(_no_run(folder))
    events = read_events(folder / "events.jsonl") if (folder / "events.jsonl").is_file() else []
    summary = read_json(folder / "run.json")
    if not summary and (ended := next((e for e in events if isinstance(e, RunEnded)), None)):
        summary = ended.summary
    return Run(
        folder, summary, read_config(folder / "config.toml"), read_json(folder / "topology.json"),
        read_json(folder / "environment.json"), events,
    )  # fmt: skip


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return (folder / "run.json").is_file() or (folder / "events.jsonl").is_file()


def _no_run(folder: Path) -> str:
    if not folder.exists():
        return f"there is no folder {folder}; `difnet launch` makes one, and prints where"
    return f"{folder} is no run folder: it holds neither run.json nor events.jsonl"


def resolve(word: str, runs: str | Path = "runs") -> Path:
    """The run folder a word means: a path, a name inside `runs`, "latest", or the beginning of just one name.

    Raises: RunFolderError, with the names that come near.
    """
    if is_run(Path(word)):
        return Path(word).resolve() if Path(word).is_symlink() else Path(word)
    home = Path(runs)
    if is_run(home / word):
        return (home / word).resolve() if (home / word).is_symlink() else home / word
    if Path(word).exists():
        raise RunFolderError(_no_run(Path(word)))
    names = sorted(p.name for p in home.iterdir() if is_run(p) and not p.is_symlink()) if home.is_dir() else []
    match [name for name in names if word and name.startswith(word)]:
        case [name]:
            return home / name
        case [_, _, *_] as several:
            shown = ", ".join(several[:5]) + (", …" if len(several) > 5 else "")
            raise RunFolderError(f"{word!r} is the beginning of {len(several)} runs: {shown}; give more of the name")
    if not names:
        raise RunFolderError(f"no run called {word!r}: there is no run in {home}/; start one with `difnet launch`")
    hint = did_you_mean(word, [*names, "latest"]) or f"; the newest is {max(names)!r}"
    raise RunFolderError(f"no run called {word!r} in {home}/{hint} A path or the beginning of a name will do too.")


def follow(path: str | Path, poll_s: float = 0.25) -> Iterator[Event | None]:
    """The events of a run as they are written, from the first on; None whenever nothing new has come.

    Ends after RunEnded; how long to be patient with a silent run is for the caller to decide.
    """
    file_path = Path(path) / "events.jsonl"
    while not file_path.is_file():
        yield None
        time.sleep(poll_s)
    begun = b""
    with file_path.open("rb") as file:
        number = 0
        while True:
            begun += file.readline()
            if not begun.endswith(b"\n"):
                yield None
                time.sleep(poll_s)
                continue
            line, begun, number = begun, b"", number + 1
            event = parse_event(file_path, number, line)
            yield event
            if isinstance(event, RunEnded):
                begun = file.readline()
                if not begun:
                    return  # else it was resumed
