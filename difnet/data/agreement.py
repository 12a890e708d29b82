"""What must all owners of data agree about before they learn together? It stands in the run's configuration.

Beside it a configuration says nothing of anybody's data: no path, no name, no row.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from difnet.config import RunConfig
from difnet.data import meaning, schema
from difnet.errors import ConfigError


def of_tables(data: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of task `table` with its schema: as given, as in a file, or as the data here suggests it."""
    from difnet.data.own_tables import schema_of

    given = options.get("schema")
    if isinstance(given, str):
        return {**options, "schema": schema.read(Path(given).expanduser()).to_dict()}
    if given is not None:
        return dict(options)
    if "target" not in options:
        raise ConfigError("task table: which column is to be predicted? Say --target NAME, or give the --schema that "
                          "`difnet data describe` writes")  # fmt: skip
    if data is None:
        raise ConfigError("task table: nobody has said what its columns mean, and no data is here to tell; give the "
                          "--schema that `difnet data describe` writes, or say --data DIR")  # fmt: skip
    words = {name: options.get(name) for name in ("client", "kind", "columns")}
    suggested = schema_of(data, options["target"], **words)
    kept = {name: value for name, value in options.items() if name != "kind"}  # the schema says it
    return {**kept, "schema": suggested.schema.to_dict()}


def of_samples(
    words: Sequence[str], given: Callable[..., Any], data: Path | None, options: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """The options of a task with a schema in their place: as given, as in a file, or as the data here suggests it.

    Args: `words`, the options that say a part of it; `given`, what makes it of the data, a schema and these.
    """
    said = {word: options.get(word) for word in words}
    schema = options.get("schema")
    if isinstance(schema, str):
        schema = meaning.read(Path(schema).expanduser())
    made = given(data, schema, said)
    return {**{word: value for word, value in options.items() if word not in words}, "schema": made.to_dict()}


def of_images(data: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of task `images` with its schema."""
    from difnet.data.own_images import given

    return of_samples(("size", "channels", "classes", "ways"), given, data, options)


def of_arrays(data: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of task `arrays` with its schema."""
    from difnet.data.own_arrays import given

    return of_samples(("kind", "inputs", "classes", "ways"), given, data, options)


def of_episodes(data: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of task `episodes` with a hash of the one data set that every host must have."""
    from difnet.data.own_arrays import digest_of

    if data is None and "digest" not in options:
        raise ConfigError("task episodes: every host must have the same data set, and none is named here to compare "
                          "theirs with; say --data DIR here too")  # fmt: skip
    return {**options, "digest": options["digest"] if data is None else digest_of(data)}


OF: Mapping[str, Callable[[Path | None, Mapping[str, Any]], dict[str, Any]]] = {
    "table": of_tables, "images": of_images, "arrays": of_arrays, "episodes": of_episodes,
}  # fmt: skip


def settled(config: RunConfig, data: Path | None) -> RunConfig:
    """A configuration with what all owners agree about, where its task learns from owners' data.

    Args: `data`, what lies here, from which it follows where nobody has said it.
    Raises: ConfigError, if it is not known; DataError for data that cannot be read.
    """
    if config.task.name not in OF:
        return config
    if "data" in config.task.options:
        raise ConfigError(f"task.data is {str(config.task.options['data'])!r}: a configuration says nothing of where "
                          f"anybody's data lies; say --data instead, on each host its own")  # fmt: skip
    options = OF[config.task.name](data, config.task.options)
    return config.model_copy(update={"task": config.task.model_copy(update={"options": options})})
