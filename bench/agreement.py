"""How many rounds, and bytes, does it take until agents agree?

No clock is read: mixing rates in closed form and as difnet finds them, and numbers that each agent drew alone, combined
until they are a tenth as far from their mean. Slots (who hears whom, with which weight) stand for A where it is large.
"""

import argparse
import math

import figures
import growth
import networkx as nx
import numpy as np
import numpy.typing as npt
from figures import SEED, say
from growth import FAMILIES, LARGE, REGULAR_DEGREE, SMALL, Family, exponential_offsets, message_bytes

from difnet.maths.combine import PaddedWeights, mix_all
from difnet.topology.networks import load

SIZES = (10, 40, 100, 1000, 10_000, 100_000)
MEASURED = {"ring": 10_000, "exponential": 1000, "random regular": 10_000, "star": 1000}  # most agents of a dense A
NUMBERS, MOST_ROUNDS = 300_000, 20_000  # drawn by all agents together; combinations before we give up
FAR = (10**6,)  # agents for which the closed form stands alone


def measure(words: argparse.Namespace) -> figures.Document:
    """Each family at each size."""
    sizes = (10, 40) if words.quick else (*SIZES, *FAR)
    rows = []
    for family in FAMILIES.values():
        for K in sizes if not family.more else sizes[:: len(sizes) - 1]:
            rows.append(row(family, K))
            say(f"agreement: {family.name} of {K}: {rows[-1]['rounds, worst start']} rounds at the most")
    rows += [star_without_server(K) for K in sizes[:: len(sizes) - 1]]
    notes = [
        "The worst start is a disagreement that the graph mixes slowest (on a ring: one half of it against the other); "
        "with independent starts every agent drew its numbers alone.",
        "Bytes are those an agent sends until then, from the worst start; on a star those of a client, and all others "
        "go through the hub.",
        f"A random regular graph has degree {REGULAR_DEGREE}; its closed form is the limit for many agents.",
    ]
    return figures.document(rows, {}, notes)


def row(family: Family, K: int) -> figures.Row:
    """One line: rates, rounds, bytes."""
    found = mixing_rate(family, K) if MEASURED[family.name] >= K else None
    rounds = growth.rounds_to_a_tenth(family.rate(K) if found is None else found)
    each = 1.0 if family.more else family.round(K).states / K
    return {
        "what": f"{family.name} of {K}",
        "neighbours told": f"{each:.0f}",
        "mixing rate": spelt(family.rate(K)),
        "as difnet finds it": "" if found is None else spelt(found),
        "rounds, worst start": whole(rounds),
        "rounds, independent starts": "" if K in FAR else independent(family, K),
        "MB an agent sends, 7 kB": each * rounds * message_bytes(SMALL) / 1e6,
        "GB an agent sends, 26 MB": each * rounds * message_bytes(LARGE) / 1e9,
    }


def star_without_server(K: int) -> figures.Row:
    """One line: where the hub is an agent like any other, with Metropolis weights."""
    rate = 1 - 1 / K
    found = load(f"star_graph(n={K - 1})").mixing_rate if MEASURED["star"] >= K else None
    return {"what": f"star of {K}, without a server", "neighbours told": "1", "mixing rate": spelt(rate),
            "as difnet finds it": "" if found is None else spelt(found),
            "rounds, worst start": whole(growth.rounds_to_a_tenth(rate))}  # fmt: skip


def whole(rounds: float) -> str:
    """A number of rounds, three digits of it.

    >>> whole(8.01), whole(174975.3)
    ('9', '175000')
    """
    return str(math.ceil(rounds) if rounds < 100 else int(float(f"{rounds:.3g}")))


def spelt(rate: float) -> str:
    """A rate, with as many digits as tell it from 1."""
    return f"{abs(rate):.4f}" if rate < 0.99 else f"1 - {1 - rate:.3g}"


def mixing_rate(family: Family, K: int) -> float:
    """Of the matrix that a run would use, as difnet finds it."""
    topology = load(family.topology(K))
    return (topology.served() if family.more else topology).mixing_rate


def independent(family: Family, K: int) -> str:
    """Rounds until ||w_k - centroid||, root mean square, is a tenth of what it was when every agent drew alone."""
    if family.more:
        return "1"
    slots = slots_of(family, K)
    W = np.random.default_rng(SEED).standard_normal((K, max(1, NUMBERS // K)))
    W -= W.mean(axis=0)  # which combining leaves alone: these weights are doubly stochastic
    enough = np.mean(W**2) / 100
    for rounds in range(1, MOST_ROUNDS):
        W = mix_all(slots, W)
        if np.mean(W**2) <= enough:
            return str(rounds)
    return f"over {MOST_ROUNDS}"


def slots_of(family: Family, K: int, dtype: npt.DTypeLike = np.float64) -> PaddedWeights:
    """`mixing.slots` of a regular graph of the family, made without the (K, K) matrix: all weights are alike.

    >>> slots_of(FAMILIES["ring"], 4).neighbours.tolist()
    [[1, 0, 1, 0], [3, 2, 3, 2]]
    """
    if family.name == "random regular":
        graph = nx.random_regular_graph(REGULAR_DEGREE, K, seed=SEED)
        neighbours = np.array([sorted(graph[k]) for k in range(K)]).T
    else:
        offsets = exponential_offsets(K)[0] if family.name == "exponential" else (1, -1)
        neighbours = np.sort([(np.arange(K) - offset) % K for offset in offsets], axis=0)
    share = 1 / (len(neighbours) + 1)
    return PaddedWeights(np.full(K, share, dtype), neighbours, np.full(neighbours.shape, share, dtype))


if __name__ == "__main__":
    figures.main(measure)
