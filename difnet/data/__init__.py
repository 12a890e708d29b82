"""What do a data set's files say? Samples in groups, read once and then shared by every process of a host.

One file reads one data set: its `read` takes the folder in which the files lie, as their owners publish them, and
returns a `Table`. What was parsed is kept beside the compiled kernels (`cache.kept`) and memory-mapped.

Imports: errors, system, config.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """Samples in groups: natural clients (writers, roles, users), or classes. Read only; arrays are memory-mapped.

    Group g holds the rows `first[g]` to `first[g] + sizes[g] - 1`. There may be rows between two groups that belong to
    none: of a text every window is a row, and those that reach over the end of a role's text are nobody's.
    """

    inputs: Array  # (rows, ...), as stored: uint8 pixels, character or word numbers, float32 features
    targets: Array  # (rows,): what is to be predicted; int64 classes unless the reader says otherwise
    first: Indices  # (groups,)
    sizes: Indices  # (groups,)
    names: Sequence[str]  # (groups,)
    digest: str  # of the content: equal for equal data, wherever and from whichever file it was read
    facts: dict[str, Any]  # what else the reader knows: names of classes, what it left out and why

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.sizes)

    def rows(self, group: int) -> Indices:
        """The rows of one group."""
        return np.arange(self.first[group], self.first[group] + self.sizes[group])
