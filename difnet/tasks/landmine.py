"""Landmine detection: 29 fields, each a client that tells mines from clutter. About 6 % of the samples are mines."""

from typing import Any

from difnet.data import landmine as files
from difnet.data.home import folder
from difnet.tasks._clients import Clients, Division, clients_of, tensors


def landmine(agents: int, shots: int, queries: int, data_dir: str | None = None, **division: Any) -> Clients:
    """The fields as clients; inputs are the nine features as they are, float32, and classes 0 (clutter) and 1 (a mine).

    To guess clutter is right in 94 % of the cases: look at the loss as well as at the accuracy.

    Args: `division`, the fields of `Division`.
    Raises: ConfigError for a division that cannot be; EnvironmentLacks and DataError as `difnet.data.landmine.read`.
    """
    table = files.read(folder("landmine", data_dir))
    return clients_of(
        table, tensors(table.inputs, table.targets), Division(**division), agents=agents, shots=shots, queries=queries,
        default_model="logistic", model_words={"inputs": files.FEATURES, "outputs": 2},
    )  # fmt: skip
