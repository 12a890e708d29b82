"""What does somebody's past alone predict, without any training? The simple recommenders that a model has to beat.

Each gives scores (n_query, classes), the higher the likelier, from one client's records in order of time.

Source: Chen et al., "Federated Meta-Learning with Fast Convergence and Efficient Communication", section 4.3, which
names them (MFU, MRU, NB) without saying how ties are broken, what the query records may know, or which naive Bayes.
"""

import torch
from torch import Tensor

from difnet.meta import Batch


def most_frequently_used(frequencies: Tensor) -> Tensor:
    """How often each class was used before each query record: these (n_query, classes) are the scores.

    A phone knows at every record what was used before, so the past of a query record reaches up to that record.
    """
    return frequencies


def most_recently_used(last_support: Tensor, last_query: Tensor) -> Tensor:
    """Which class was used last before each query record, which one before that, and so on.

    Args: one-hot (n_support, classes) and (n_query, classes), the class used last before each record; zeros where there
        is none. Between the support and the query records others may be missing.
    Returns: the number of the latest record before which a class was used last, counted from 1; 0 where there is none.

    >>> most_recently_used(torch.eye(3)[[0, 1]], torch.eye(3)[[1, 0]]).tolist()
    [[1.0, 3.0, 0.0], [4.0, 3.0, 0.0]]
    """
    last = torch.cat([last_support, last_query])
    numbers = torch.arange(1, len(last) + 1, dtype=last.dtype, device=last.device)
    return (last * numbers[:, None]).cummax(0).values[len(last_support) :]


def naive_bayes(support: Batch, query: Tensor, classes: int, smoothing: float = 1.0) -> Tensor:
    """Multinomial naive Bayes: log P(class) + sum_j x_j log P(j | class), up to a constant of each query sample.

    P(j | class) is the class's sum of feature j over its sum of all features, with `smoothing` added to every sum
    (Laplace); P(class) is its share of the support samples, so one that has none scores minus infinity.

    Args: `support`, inputs (n, features), none negative, and classes (n,); `query`, inputs (m, features).
    Returns: (m, classes).
    Source: Manning, Raghavan, Schütze, "Introduction to Information Retrieval", 2008, section 13.2.
    """
    x, y = support
    member = torch.nn.functional.one_hot(y, classes).to(x.dtype)
    sums = member.T @ x + smoothing
    prior = torch.log(member.sum(0) / len(y))
    return prior + query @ torch.log(sums / sums.sum(1, keepdim=True)).T


def top(scores: Tensor, targets: Tensor, k: int) -> Tensor:
    """The share of samples whose class is among the k with the highest scores; of equal ones the lower number is first.

    Args: `scores` (n, classes), `targets` (n,). Returns: a scalar.

    >>> top(torch.tensor([[0.0, 3.0, 3.0], [9.0, 1.0, 2.0]]), torch.tensor([2, 2]), k=2)
    tensor(1.)
    """
    own = scores.gather(-1, targets[..., None])
    numbers = torch.arange(scores.shape[-1], device=scores.device)
    before = (scores > own) | ((scores == own) & (numbers < targets[..., None]))
    return (before.sum(-1) < k).to(scores.dtype).mean()
