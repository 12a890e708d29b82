"""People's own arrays: a folder for each client, with x.npy and y.npy."""

from collections.abc import Mapping, Sequence
from typing import Any

from difnet.data import own_arrays
from difnet.data.table_files import Where
from difnet.tasks._pairs import Pairs, owned
from difnet.tasks.images_ import one_folder


def arrays(
    agents: int, shots: int, queries: int, *, data: Where = (),
    here: Sequence[int] | None = None, keeps: bool = True, schema: Mapping[str, Any] | None = None,
    kind: str | None = None, inputs: str | None = None, classes: int | None = None, ways: int | None = None,
    **options: Any,
) -> Pairs:  # fmt: skip
    """The arrays in the folder `data` as clients, dealt to the agents `here` in the order of their names.

    Args: `schema`, as plain values (a run's [task.schema]): shape, inputs, kind and outputs, or shape, inputs and ways;
        else it follows from the arrays and from `kind` ("classification", "regression"), `inputs` ("numbers", "pixels",
        "codes"), `classes`, how many there are, or `ways`, for episodes of an owner's own classes; `options`, those of
        `Owned`: support (0.5), kept (0.1), least (10 samples, of a client or in episodes of a class), data_seed (0).
    Raises: ConfigError for a schema or options that cannot be, and for fewer clients than agents; DataError and
        EnvironmentLacks as `difnet.data.own_arrays.read`.
    """
    place = one_folder(data)
    given = own_arrays.given(place, schema, {"kind": kind, "inputs": inputs, "classes": classes, "ways": ways})
    own = own_arrays.read(place) if place else own_arrays.OwnArrays({}, {})
    own_arrays.check(own.facts, given)
    return owned(own.clients, given, agents=agents, shots=shots, queries=queries, here=here, keeps=keeps, **options)
