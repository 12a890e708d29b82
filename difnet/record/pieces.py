"""Into which pieces has a network fallen, and how is that said? Pure: edges, and who goes on without whom."""

from collections.abc import Collection, Iterable, Sequence

from difnet.maths.stretches import stretches

MOST_NAMED = 8  # pieces in one sentence, and stretches of agents in one piece


def pieces(
    agents: Iterable[int], edges: Iterable[tuple[int, int]], apart: Collection[tuple[int, int]]
) -> list[list[int]]:  # fmt: skip
    """Who can still hear of whom, by whatever detour: the biggest piece first, and of two alike the one with agent 0.

    Args: `agents`, those that live; `edges` of the whole network; `apart`, (agent, the neighbour it goes on without):
        it takes one end to part an edge, for then no state is used that comes over it.

    >>> ring = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5)]
    >>> pieces(range(6), ring, [(1, 2)])
    [[0, 1, 2, 3, 4, 5]]
    >>> pieces(range(6), ring, [(1, 2), (4, 3)])
    [[0, 1, 4, 5], [2, 3]]
    """
    above = {k: k for k in agents}

    def top(k: int) -> int:
        while above[k] != k:
            above[k] = k = above[above[k]]
        return k

    for k, l in edges:
        if k in above and l in above and (k, l) not in apart and (l, k) not in apart:
            low, high = sorted((top(k), top(l)))
            above[high] = low
    found: dict[int, list[int]] = {}
    for k in sorted(above):
        found.setdefault(top(k), []).append(k)
    return sorted(found.values(), key=lambda piece: (-len(piece), piece[0]))


def stretches_text(agents: Sequence[int]) -> str:
    """Agents in rising order, as stretches.

    >>> stretches_text([0, 1, 2, 7]), stretches_text([3]), stretches_text([4, 5])
    ('0-2, 7', '3', '4, 5')
    """
    told = stretches(agents)
    words = [", ".join(map(str, s)) if len(s) < 3 else f"{s[0]}-{s[-1]}" for s in told[:MOST_NAMED]]
    untold = sum(map(len, told[MOST_NAMED:]))
    return ", ".join(words) + (f" and {untold} more" if untold else "")


def named(pieces: Sequence[Sequence[int]]) -> list[str]:
    """The pieces in words, in their order; all who are alone are one of the words.

    >>> named([[0, 1, 2], [4, 5], [3], [7]])
    ['0-2', '4, 5', 'alone: 3, 7']
    """
    several = [stretches_text(piece) for piece in pieces if len(piece) > 1]
    alone = [piece[0] for piece in pieces if len(piece) == 1]
    more = [f"{len(several) - MOST_NAMED} more"] if len(several) > MOST_NAMED else []
    return [*several[:MOST_NAMED], *more, *([f"alone: {stretches_text(alone)}"] if alone else [])]


def pieces_text(pieces: Sequence[Sequence[int]]) -> str:
    """How many pieces there are, and who is in which.

    >>> pieces_text([[0, 1, 2], [4, 5], [3]]), pieces_text([[0, 1, 2]])
    ('in 3 pieces: 0-2 | 4, 5 | alone: 3', 'in one piece')
    """
    return "in one piece" if len(pieces) < 2 else f"in {len(pieces)} pieces: {' | '.join(named(pieces))}"
