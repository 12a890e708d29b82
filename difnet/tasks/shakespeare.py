"""Shakespeare's roles: which letter follows 80 others? A federation of clients with text.

Source: Caldas et al., "LEAF: A Benchmark for Federated Settings", 2018; Chen et al., "Federated Meta-Learning with Fast
Convergence and Efficient Communication", appendix A.2: roles with 20 samples or more.
"""

from typing import Any

import numpy as np
import torch

from difnet.data import Indices
from difnet.data import shakespeare as files
from difnet.data.home import folder
from difnet.meta import Batch
from difnet.tasks._clients import Clients, Division, clients_of

LEAST, MOST = 20, 200


def shakespeare(
    agents: int, shots: int, queries: int, data_dir: str | None = None, **division: Any
) -> Clients:  # fmt: skip
    """The roles of all plays as clients, 80/10/10 % for training and being held out.

    Inputs are 80 letters, uint8 numbers; targets the one that follows. A role's first windows are for support and its
    last for query, because neighbours have 79 letters in common.

    Args: `division`, the fields of `Division`; of a role, the first 200 windows are taken unless `most` says
        otherwise: the roles held out are tested with all their windows at once, of which the longest role has 66903
        (tens of GB); those of the paper have 1183 on average.
    Raises: ConfigError for a division that cannot be; EnvironmentLacks and DataError as `difnet.data.shakespeare.read`.
    """
    table = files.read(folder("shakespeare", data_dir))

    def take(rows: Indices) -> Batch:
        return torch.from_numpy(table.inputs[rows]), torch.from_numpy(table.targets[rows].astype(np.int64))

    letters = len(table.facts["letters"])
    return clients_of(
        table, take, Division(**{"least": LEAST, "most": MOST, **division}), agents=agents, shots=shots,
        queries=queries, default_model="char-lstm", model_words={"vocabulary": letters, "outputs": letters},
        in_order=True,
    )  # fmt: skip
