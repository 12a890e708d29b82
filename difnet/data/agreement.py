"""What must all owners of data agree about before they learn together? It stands in the run's configuration.

Beside it a configuration says nothing of anybody's data: no path, no name, no row.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from difnet.config import RunConfig
from difnet.data import schema
from difnet.errors import ConfigError


def of_tables(data: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of task `table` with its schema: as given, as in a file, or as the data here suggests it."""
    from difnet.data.own_tables import schema_of

    given = options.get("schema")
    if isinstance(given, str):
        return {**options, "schema": schema.read(Path(given).expanduser()).to_dict()}
    if given is not None or data is None:
        return dict(options)
    if "target" not in options:
        raise ConfigError("task table: which column is to be predicted? Say --target NAME, or give the --schema that "
                          "`difnet data describe` writes")  # fmt: skip
    words = {name: options.get(name) for name in ("client", "kind", "columns")}
    suggested = schema_of(data, options["target"], **words)
    kept = {name: value for name, value in options.items() if name != "kind"}  # the schema says it
    return {**kept, "schema": suggested.schema.to_dict()}


OF: Mapping[str, Callable[[Path | None, Mapping[str, Any]], dict[str, Any]]] = {"table": of_tables}


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
