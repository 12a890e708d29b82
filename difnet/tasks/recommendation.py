"""What will this user take next? A classifier of each user's own items, learnt from the records of that user's past.

Source: Chen et al., "Federated Meta-Learning with Fast Convergence and Efficient Communication" (FedMeta), section 4.3
and appendix A.4. There records have 103 features, which are not published: those below are ours.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from difnet.data import Array
from difnet.data import ratings as files
from difnet.data.home import folder
from difnet.maths.baselines import most_frequently_used, most_recently_used, naive_bayes, top
from difnet.meta import Tasks
from difnet.tasks._clients import Clients, Division, clients_of, tensors

EIGHTHS, WEEKDAYS, GAPS = 8, 7, 8
USUAL = {"support": 0.8, "query": 0.2, "least": 20}  # MovieLens itself has no user with fewer than 20 ratings


def features(known: Array) -> Array:
    """A record's features from what is known before it (…, 4 + classes), as `difnet.data.ratings.read` tells it.

    Of 40 classes 103 features: the class used last (one of 40), the relative frequencies of all classes so far (40),
    the eighth of the day (one of 8), the weekday (one of 7), the time since the last record (one of 8). A client's
    first record has no last class, frequencies or time since: zeros. None is negative, and each of the five sums to 1.

    Returns: (…, 2 * classes + 23), float32.

    >>> features(np.array([1, 7, 6, 0, 3, 1])).tolist()[:4]
    [0.0, 1.0, 0.75, 0.25]
    """
    last, counts = known[..., :1], known[..., 4:]
    frequencies = counts / np.maximum(1, counts.sum(-1, keepdims=True))
    sizes = (EIGHTHS, WEEKDAYS, GAPS)
    rest = [known[..., 1 + n, None] == np.arange(size) for n, size in enumerate(sizes)]
    return np.concatenate([last == np.arange(counts.shape[-1]), frequencies, *rest], axis=-1).astype(np.float32)


def by_frequency(task: Tasks) -> Tensor:
    """Most frequently used so far."""
    return most_frequently_used(_blocks(task.query[0])[1])


def by_recency(task: Tasks) -> Tensor:
    """Most recently used."""
    return most_recently_used(_blocks(task.support[0])[0], _blocks(task.query[0])[0])


def by_bayes(task: Tasks) -> Tensor:
    """Multinomial naive Bayes, fitted to the support records."""
    return naive_bayes(task.support, task.query[0], classes=_blocks(task.query[0])[0].shape[-1])


class Recommendation(Clients):
    """Clients with records in order of time, the figures by which recommenders are compared, and simple ones.

    `baselines`: one client's task, without a leading size -> scores of its query records (n, classes). `metrics`:
    (prediction, target) -> share, beside the accuracy, which is top 1.
    """

    metrics: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"top 4": partial(top, k=4)}  # noqa: RUF012
    baselines: dict[str, Callable[[Tasks], Tensor]] = {  # noqa: RUF012
        "most frequently used": by_frequency, "most recently used": by_recency, "naive Bayes": by_bayes,
    }  # fmt: skip


def recommendation(
    agents: int, shots: int, queries: int, data_dir: str | None = None, data: str = "movielens-small",
    item: str = files.GENRE, classes: int = 40, file: str | None = None, user: str = "userId", time: str = "timestamp",
    **division: Any,
) -> Recommendation:  # fmt: skip
    """The users of a ratings table as clients; inputs are the 103 `features` of a record, classes its user's own items.

    A client's last 20 % of records (`query`) are for query, its first 80 % (`support`; FedMeta takes 5 % as well) for
    support. MovieLens has 20 genres, so that of 40 classes a user has 20 at most.

    Args: `data`, the data set's name; `item`, `classes`, `file`, `user` and `time` as `difnet.data.ratings.read` takes
        them; `division`, the fields of `Division`.
    Raises: ConfigError for a division that cannot be; EnvironmentLacks and DataError as `difnet.data.ratings.read`.
    """
    table = files.read(folder(data, data_dir), item, classes, file, user, time)
    return clients_of(
        table, tensors(table.inputs, table.targets, features), Division(**USUAL | division), agents=agents, shots=shots,
        queries=queries, default_model="mlp", in_order=True, kind=Recommendation,
        model_words={"inputs": 2 * classes + EIGHTHS + WEEKDAYS + GAPS, "outputs": classes, "hidden": (64,)},
    )  # fmt: skip


def _blocks(x: Tensor) -> tuple[Tensor, Tensor]:
    """Of the features of records, the class used last and the relative frequencies."""
    classes = (x.shape[-1] - EIGHTHS - WEEKDAYS - GAPS) // 2
    return x[..., :classes], x[..., classes : 2 * classes]
