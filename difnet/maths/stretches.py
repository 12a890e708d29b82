"""Which of some numbers follow one another?"""

from collections.abc import Iterable


def stretches(numbers: Iterable[int]) -> list[range]:
    """Numbers, in their order, as stretches in which each is one more than the one before.

    >>> stretches([0, 1, 2, 7]), stretches([5, 3, 4]), stretches([])
    ([range(0, 3), range(7, 8)], [range(5, 6), range(3, 5)], [])
    """
    found: list[range] = []
    for n in numbers:
        if found and n == found[-1].stop:
            found[-1] = range(found[-1].start, n + 1)
        else:
            found.append(range(n, n + 1))
    return found
