"""People's own pictures: a folder is a class, and a folder of these a client."""

from collections.abc import Mapping, Sequence
from typing import Any

from difnet.data import own_images
from difnet.data.table_files import Where
from difnet.tasks._pairs import Pairs, owned


def images(
    agents: int, shots: int, queries: int, *, data: Where = (),
    here: Sequence[int] | None = None, keeps: bool = True, schema: Mapping[str, Any] | None = None,
    size: int | None = None, channels: int | None = None, classes: Sequence[str] | None = None,
    ways: int | None = None, **options: Any,
) -> Pairs:  # fmt: skip
    """The pictures in the folder `data` as clients, dealt to the agents `here` in the order of their names.

    Inputs (channels, size, size), float32 from 0 to 1. Either all owners share their classes, which are numbered in the
    order of the schema; or each task is of `ways` classes of its owner's own, with `shots` and `queries` of each.

    Args: `schema`, as plain values (a run's [task.schema]): size, channels, and classes or ways; else the words of
        these names, and what is not said follows from the pictures; `options`, those of `Owned`: support (0.5), kept
        (0.1), least (10 pictures, of a client or in episodes of a class), data_seed (0).
    Raises: ConfigError for a schema or options that cannot be, and for fewer clients than agents; DataError and
        EnvironmentLacks as `difnet.data.own_images.read`.
    """
    place = one_folder(data)
    words = {"size": size, "channels": channels, "classes": classes, "ways": ways}
    given = own_images.given(place, schema, words)
    own = own_images.read(place, given) if place else own_images.OwnImages({}, {}, [])
    return owned(own.clients, given.meaning, names=own.classes, cautions=own.cautions, agents=agents, shots=shots,
                 queries=queries, here=here, keeps=keeps, **options)  # fmt: skip


def one_folder(data: Where) -> str | None:
    """The folder that is named, if one is."""
    if not data:
        return None
    return str(data if isinstance(data, str) or not isinstance(data, Sequence) else data[0])
