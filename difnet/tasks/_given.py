"""How is a task with data of one's own said in Python? As a small value, which `difnet.launch` and `simulate` take."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from difnet.data import laying_out, own_arrays
from difnet.data.samples import Dataset, Pair
from difnet.data.table_files import Where
from difnet.errors import ConfigError
from difnet.tasks._episodes import Episodes
from difnet.tasks._pairs import Pairs, owned


class OwnTask:
    """A task family by name, its options, and its data: files that are there, or objects that are written for a run."""

    def __init__(
        self, name: str, options: Mapping[str, Any], data: Where | None = None, write: laying_out.Write | None = None
    ) -> None:
        self.name = name
        self.options = {word: value for word, value in options.items() if value is not None}
        self._data, self._write = data, write

    def said(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """A run's words with this task in its place.

        Raises: ConfigError for words that it leaves no room for.
        """
        if "data" in words:
            raise ConfigError(f"data is given beside a task that has its own ({self.name}); leave one away")
        place = words.get("place", "local")
        if self._write and (place != "local" or words.get("hosts_expected")):
            raise ConfigError(f"the data of task {self.name!r} are objects of this process, which hosts elsewhere "
                              f"(place {place!r}) cannot have; write them to files there, and say --data at each host")
        return {**words, "task": {"name": self.name, **self.options}}

    @contextmanager
    def files(self) -> Iterator[Any]:
        """Where its data lies, within the block.

        Raises: DataError for objects that cannot be written; EnvironmentLacks without room for them.
        """
        if self._write is None:
            yield self._data
        else:
            with laying_out.scratch(self._write) as folder:
                yield folder


class OwnDatasets(OwnTask):
    """Clients that are data sets. Called as a factory, as `--task module:name` does, it reads them where they are."""

    def __init__(self, datasets: Any, options: Mapping[str, Any]) -> None:
        self._datasets = laying_out.named(datasets, "data sets")
        super().__init__("arrays", options, write=lambda folder: laying_out.write_datasets(self._opened(), folder))

    def _opened(self) -> dict[str, Dataset]:
        return {name: Dataset(dataset, f"client {name!r}") for name, dataset in self._datasets.items()}

    def __call__(
        self, agents: int, shots: int, queries: int, *, here: Sequence[int] | None = None, keeps: bool = True,
        **options: Any,
    ) -> Pairs:  # fmt: skip
        """The family, of the data sets of all agents' clients: every host names the same, and reads those of its own.

        Raises: ConfigError and DataError as task `arrays`.
        """
        said = {**self.options, **options}
        about = {word: said.pop(word, None) for word in ("kind", "inputs", "classes", "ways")}
        pairs, facts = _read(self._opened())
        meaning = own_arrays.meaning_of(facts, **about)
        own_arrays.check(facts, meaning)
        return owned(pairs, meaning, agents=agents, shots=shots, queries=queries, here=here, keeps=keeps, whole=True,
                     **said)  # fmt: skip


class OwnEpisodes(OwnTask):
    """Episodes of one data set. Called as a factory, as `--task module:name` does, it reads it where it is."""

    def __init__(self, dataset: Any, shots: int | None, options: Mapping[str, Any]) -> None:
        self._dataset, self._shots = dataset, shots
        super().__init__("episodes", options, write=lambda folder: laying_out.write_dataset(self._opened(), folder))

    def _opened(self) -> Dataset:
        return Dataset(self._dataset, "the data set")

    def said(self, words: Mapping[str, Any]) -> dict[str, Any]:
        if self._shots is not None:
            self._refuse_other(words.get("shots", self._shots))
            words = {**words, "shots": self._shots}
        return super().said(words)

    def _refuse_other(self, shots: int) -> None:
        if self._shots not in (None, shots):
            raise ConfigError(f"episodes_from says {self._shots} shots, and the run {shots}; say --shots {self._shots} "
                              f"too, or leave them away in episodes_from")  # fmt: skip

    def __call__(self, agents: int, shots: int, queries: int, **options: Any) -> Episodes:
        """The family.

        Raises: ConfigError and DataError as task `episodes`.
        """
        from difnet.tasks.episodes import of_classes

        self._refuse_other(shots)
        said = {**self.options, **options}
        pairs, facts = _read({"the data set": self._opened()})
        meaning = own_arrays.meaning_of(facts, inputs=said.pop("inputs", None), ways=said.pop("ways"))
        [pair] = pairs.values()
        return of_classes(pair, meaning, "", agents=agents, shots=shots, queries=queries, **said)


def _read(datasets: Mapping[str, Dataset]) -> tuple[dict[str, Pair], dict[str, own_arrays.Facts]]:
    """Their targets, and what they are; inputs are read when a task needs them."""
    pairs = {name: Pair(dataset, dataset.targets()) for name, dataset in datasets.items()}
    return pairs, {name: own_arrays.facts_of(pair, f"client {name!r}, ", datasets[name].shape, datasets[name].dtype.str)
                   for name, pair in pairs.items()}  # fmt: skip


def table(data: Any, target: str | None = None, **options: Any) -> OwnTask:
    """Tables as a task: of files, or of frames.

    Args: `data`, a folder or files, as `--data` names them; or a frame (of pandas, polars or pyarrow, or columns by
        name) for each client, {"ash": frame, …}, or one frame with a column of clients, `client`; `target`, the column
        that is predicted; `options`, those of task `table`: schema, client, kind, support, kept, least, data_seed.

    >>> table("clients/", target="ill").options
    {'target': 'ill'}
    """
    options = {"target": target, **options}
    if isinstance(data, str) or hasattr(data, "__fspath__"):
        return OwnTask("table", options, data)
    if hasattr(data, "columns") or hasattr(data, "column_names"):
        data = {"data": data}
    frames = laying_out.named(data, "tables")
    return OwnTask("table", options, write=lambda folder: laying_out.write_frames(frames, folder))


def arrays(data: Any, **options: Any) -> OwnTask:
    """Arrays as a task.

    Args: `data`, a folder as `--data` names it; or inputs (n, …) and targets (n,) of each client, arrays or tensors,
        {"ash": (x, y), …}; `options`, those of task `arrays`: kind, inputs, classes, ways, schema, support, kept, ….

    >>> arrays("clients/", kind="regression").name
    'arrays'
    """
    if isinstance(data, str) or hasattr(data, "__fspath__"):
        return OwnTask("arrays", options, data)
    pairs = laying_out.named(data, "arrays")
    return OwnTask("arrays", options, write=lambda folder: laying_out.write_arrays(pairs, folder))


def images(data: Any, **options: Any) -> OwnTask:
    """Pictures as a task.

    Args: `data`, a folder as `--data` names it; `options`, those of task `images`: size, channels, classes, ways,
        schema, support, kept, least, data_seed.

    >>> images("pics/", ways=5).options
    {'ways': 5}
    """
    return OwnTask("images", options, data)


def from_datasets(datasets: Mapping[str, Any], **options: Any) -> OwnDatasets:
    """Data sets of torch (map-style: __len__ and __getitem__, items (x, y)) as a task, one for each client.

    In a file `mine.py`, `task = from_datasets({...})` is `--task mine:task`: then items are read when a task needs
    them. `difnet.launch` writes them to files first, one after another.

    Args: `options`, those of task `arrays`: kind, inputs, classes, ways, support, kept, least, data_seed.
    """
    return OwnDatasets(datasets, options)


def episodes_from(dataset: Any, ways: int = 5, shots: int | None = None, **options: Any) -> OwnEpisodes:
    """Episodes of `ways` classes of one map-style data set of torch, which all agents share, as a task.

    In a file `mine.py`, `task = episodes_from(dataset)` is `--task mine:task`.

    Args: `shots`, samples of each class in a support set (None: as the run says); `options`, those of task `episodes`:
        inputs, shares, partition, data_seed.
    """
    return OwnEpisodes(dataset, shots, {"ways": ways, **options})
