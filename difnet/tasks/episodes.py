"""N-way k-shot episodes of one data set of one's own, which every host has: arrays, or a data set of torch."""

from collections.abc import Sequence

import numpy as np

from difnet.data import Array, Indices, Table, own_arrays
from difnet.data.meaning import Meaning
from difnet.data.samples import Pair
from difnet.data.table_files import Where
from difnet.errors import ConfigError, DataError
from difnet.maths.federation import split_clients
from difnet.maths.seeding import data_generator
from difnet.tasks._episodes import Episodes, episodes_of
from difnet.tasks._pairs import change, default_model
from difnet.tasks.images_ import one_folder


def episodes(
    agents: int, shots: int, queries: int, *, data: Where = (), digest: str | None = None, ways: int = 5,
    inputs: str | None = None, shares: Sequence[float] = (0.64, 0.16, 0.2), partition: str = "none", data_seed: int = 0,
) -> Episodes:  # fmt: skip
    """Episodes of `ways` classes of the data set in the folder `data`: x.npy (n, …) and y.npy (n,), whole numbers.

    Args: `digest`, that of the data set which all are to have; `inputs`, as in task `arrays`; `shares` of the classes:
        training, validation, test, divided at random by `data_seed`; `partition`, "none" or "class", see `episodes_of`.
    Raises: ConfigError for options that cannot be, or too few classes; DataError and EnvironmentLacks as
        `difnet.data.own_arrays.read`, and DataError for another data set.
    """
    place = one_folder(data)
    if place is None:
        raise ConfigError("task episodes: every host must have the data set, also a hub's; say --data DIR")
    own = own_arrays.read(place)
    if len(own.clients) != 1:
        raise DataError(f"{place} holds {len(own.clients)} folders of clients; episodes of one data set take x.npy and "
                        f"y.npy; those of owners' own classes are --task arrays --set task.ways={ways}")  # fmt: skip
    its = own_arrays.digest_of(place)
    if digest is not None and its != digest:
        raise DataError(f"the data set in {place} is another one (digest {its}) than that of the run ({digest}); every "
                        f"host must have the same")  # fmt: skip
    [pair] = own.clients.values()
    return of_classes(pair, own_arrays.meaning_of(own.facts, inputs=inputs, ways=ways), its, agents=agents, shots=shots,
                      queries=queries, shares=shares, partition=partition, data_seed=data_seed)  # fmt: skip


def of_classes(
    pair: Pair, meaning: Meaning, digest: str, *, agents: int, shots: int, queries: int,
    shares: Sequence[float] = (0.64, 0.16, 0.2), partition: str = "none", data_seed: int = 0,
) -> Episodes:  # fmt: skip
    """Episodes of the classes of these samples; see `episodes`."""
    assert meaning.ways
    targets = np.asarray(pair.targets).astype(np.int64)
    classes, sizes = np.unique(targets, return_counts=True)
    table = Table(_Sorted(pair, np.argsort(targets, kind="stable")), targets, np.cumsum(sizes) - sizes, sizes,  # type: ignore[arg-type]
                  [str(c) for c in classes], digest, {})  # fmt: skip
    parts = split_clients(len(classes), shares, rng=data_generator(data_seed))._asdict()
    model, words = default_model(meaning)

    def as_inputs(stored: Array) -> Array:
        return change(stored, meaning).numpy().reshape(*stored.shape[:3], *meaning.shape)

    return episodes_of(table, parts, agents=agents, partition=partition, ways=meaning.ways, shots=shots,
                       queries=queries, change=as_inputs, default_model=model, model_words=words)  # fmt: skip


class _Sorted:
    """Inputs in the order of their classes, looked up where they lie."""

    def __init__(self, pair: Pair, order: Indices) -> None:
        self._pair, self._order = pair, order

    def __getitem__(self, rows: Indices) -> Array:
        found = np.asarray(self._pair.inputs[self._order[rows.ravel()]])
        return found.reshape(*rows.shape, *found.shape[1:])
