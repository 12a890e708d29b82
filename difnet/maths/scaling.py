"""How do raw columns become a model's inputs? By the constants of one support set, or by given ones; nobody else's.

Rows are (..., n, columns) with NaN where a cell is a gap; a category is the number of its word, from 0 on. All is done
with tensors alone, for any number of tasks at a time, so that it can be traced, mapped and exported.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NOTHING = torch.finfo(torch.float32).max  # to divide by where a support set says nothing of a column: 0 comes out
ROUNDING = 8 * torch.finfo(torch.float32).eps  # of a value: what differs by less is the same, stored as float32


class Layout(NamedTuple):
    """What each raw column is."""

    categories: tuple[int, ...]  # how many words it has; 0: it is a number
    gaps: tuple[bool, ...]  # whether an input of its own says where it is a gap

    @property
    def inputs(self) -> int:
        """How many inputs a model has.

        >>> Layout((0, 3), (True, False)).inputs
        5
        """
        return sum(max(1, words) + gap for words, gap in zip(self.categories, self.gaps, strict=True))


class Constants(NamedTuple):
    """What is subtracted from each column, and by what the rest is divided: (..., columns)."""

    center: Tensor
    scale: Tensor


def constants(support: Tensor) -> Constants:
    """Mean and standard deviation (divisor n) of each column over the rows of a support set; gaps are left out.

    A column that is constant there is centred and not divided. One with gaps alone comes to 0 wherever it is scaled:
    nothing is known of its size.

    Args: `support`, (..., n, columns).
    Returns: (..., columns), in the dtype of `support`; computed in float64.

    >>> constants(torch.tensor([[1.0, 5.0], [3.0, 5.0], [torch.nan, 5.0]]))
    Constants(center=tensor([2., 5.]), scale=tensor([1., 1.]))
    """
    there = ~torch.isnan(support)
    values = torch.where(there, support, 0.0).double()
    count = there.sum(-2)
    n = count.clamp(min=1)
    center = values.sum(-2) / n
    off = torch.where(there, values - center.unsqueeze(-2), 0.0)
    spread = (off.square().sum(-2) / n).sqrt()
    largest = values.abs().amax(-2)
    scale = torch.where(off.abs().amax(-2) <= ROUNDING * largest, 1.0, spread)
    return Constants(center.to(support.dtype), torch.where(count > 0, scale, NOTHING).to(support.dtype))


def inputs(raw: Tensor, by: Constants, layout: Layout) -> Tensor:
    """A model's inputs of raw rows.

    A number is (x - center) / scale, and 0, the support's mean, where it is a gap. A category is one input for each of
    its words, all 0 for a gap. Behind a column whose layout says so comes an input that is 1 for a gap, else 0.

    Args: `raw`, (..., n, columns); `by`, (..., columns), or (columns,) for all alike.
    Returns: (..., n, layout.inputs), in the dtype of `raw`.

    >>> by = Constants(torch.tensor([2.0, 0.0]), torch.tensor([2.0, 1.0]))
    >>> inputs(torch.tensor([[6.0, 1.0], [torch.nan, 0.0]]), by, Layout((0, 2), (True, False)))
    tensor([[2., 0., 0., 1.],
            [0., 1., 1., 0.]])
    """
    gaps = torch.isnan(raw)
    by = Constants(by.center.unsqueeze(-2), by.scale.unsqueeze(-2))
    filled = torch.where(gaps, by.center, raw)  # before all arithmetic: no gradient comes of a gap
    scaled = ((filled.double() - by.center) / by.scale).to(raw.dtype)
    parts = []
    for column, (words, gap) in enumerate(zip(layout.categories, layout.gaps, strict=True)):
        one = slice(column, column + 1)
        if words:
            parts.append((raw[..., one] == torch.arange(words, device=raw.device)).to(raw.dtype))
        else:
            parts.append(scaled[..., one])
        if gap:
            parts.append(gaps[..., one].to(raw.dtype))
    return torch.cat(parts, dim=-1)


def scaled(targets: Tensor, by: Constants) -> Tensor:
    """Targets (..., n, 1) as a model is to predict them."""
    return ((targets.double() - by.center.unsqueeze(-2)) / by.scale.unsqueeze(-2)).to(targets.dtype)


def in_unit(predictions: Tensor, by: Constants) -> Tensor:
    """A model's predictions (..., n, 1) in the targets' own unit: the inverse of `scaled`.

    >>> by = Constants(torch.tensor([10.0]), torch.tensor([4.0]))
    >>> in_unit(scaled(torch.tensor([[12.0]]), by), by)
    tensor([[12.]])
    """
    return predictions * by.scale.unsqueeze(-2) + by.center.unsqueeze(-2)
