"""How long would a round of a thousand to a million agents take, by closed forms and the costs that were measured?

The closed forms are compared with real networks by `scale.py` and `agreement.py`, and with difnet's own graphs by a
test. What this script prints was run by nobody.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import figures
import numpy as np

SMALL, LARGE = 1761, 6_603_710  # values of the sine waves' network, and of LEAF's FEMNIST network: 7 kB and 26 MB
REGULAR_DEGREE = 4
BEAT_S = 0.25  # a link that was quiet for so long is told a beat, by either end


class Round(NamedTuple):
    """What travels in one round."""

    messages: int  # of all agents: one from each end of every edge
    states: int  # those of them that carry a state; the others only pace whoever is not heard
    busiest: int  # messages that the busiest agent sends
    told: int  # those of them that carry a state


class Family(NamedTuple):
    """A family of graphs, one for every number of agents K."""

    name: str
    topology: Callable[[int], str]  # K -> the words for it
    round: Callable[[int], Round]
    rate: Callable[[int], float]  # the mixing rate of its usual weights; of the server where one serves
    more: tuple[str, ...] = ()  # further words for `difnet launch`


def ring_round(K: int) -> Round:
    """Every agent tells both its neighbours, K >= 3."""
    return Round(2 * K, 2 * K, 2, 2)


def ring_rate(K: int) -> float:
    """Metropolis weights on a ring, 1/3 each: Fourier's eigenvalue of the longest wave.

    >>> round(ring_rate(40), 6)
    0.991792
    """
    return (1 + 2 * math.cos(2 * math.pi / K)) / 3


def exponential_offsets(K: int) -> tuple[list[int], set[int]]:
    """Where those sit, counted from agent 0, who hear it; and all with whom it has a connection.

    >>> exponential_offsets(10)
    ([1, 2, 4, 8], {1, 2, 4, 6, 8, 9})
    """
    hear = [2**j for j in range((K - 1).bit_length())]
    return hear, {offset % K for j in hear for offset in (j, -j)}


def exponential_round(K: int) -> Round:
    """Agent k hears k-1, k-2, k-4, …, and both ends of a connection send one message, of which some are empty."""
    hear, linked = exponential_offsets(K)
    return Round(K * len(linked), K * len(hear), len(linked), len(hear))


def exponential_rate(K: int) -> float:
    """Averaging on an exponential graph, whose A is circulant: its eigenvalues are sums of roots of unity.

    Source for even K, where it is 1 - 2 / (1 + ceil(log2 K)): B. Ying et al., NeurIPS 2021, proposition 1.

    >>> round(exponential_rate(1000), 9) == round(1 - 2 / 11, 9)
    True
    """
    hear, _ = exponential_offsets(K)
    m = np.arange(1, K)
    sums = 1 + sum(np.exp(-2j * math.pi * (m * j % K) / K) for j in hear)
    return float(np.abs(sums).max() / (1 + len(hear)))


def regular_round(K: int, degree: int = REGULAR_DEGREE) -> Round:
    """Every agent tells all its neighbours."""
    return Round(degree * K, degree * K, degree, degree)


def regular_rate(K: int, degree: int = REGULAR_DEGREE) -> float:
    """Metropolis weights on a random regular graph, as K grows: (1 + 2 sqrt(d-1)) / (d+1), from below.

    Source: J. Friedman, "A proof of Alon's second eigenvalue conjecture", 2003: 2 sqrt(d-1), but for an epsilon.

    >>> round(regular_rate(10**6), 4)
    0.8928
    """
    return (1 + 2 * math.sqrt(degree - 1)) / (degree + 1)


def star_round(K: int) -> Round:
    """The hub calls everybody and everybody answers."""
    return Round(2 * (K - 1), 2 * (K - 1), K - 1, K - 1)


FAMILIES = {
    "ring": Family("ring", lambda K: f"cycle_graph(n={K})", ring_round, ring_rate),
    "exponential": Family("exponential", lambda K: f"exponential_graph(n={K})", exponential_round, exponential_rate),
    "random regular": Family("random regular", lambda K: f"random_regular_graph(d={REGULAR_DEGREE}, n={K})",
                             regular_round, regular_rate),
    "star": Family("star", lambda K: f"star_graph(n={K - 1})", star_round, lambda K: 0.0, ("--algorithm", "fedmeta")),
}  # fmt: skip


# --- bytes ---------------------------------------------------------------------------------------------------------


def header_bytes(round_: int) -> int:
    """Of a state's header: a list's mark, "state" with its length, an epoch below 128, and the round.

    >>> [header_bytes(r) for r in (127, 255, 65535, 65536)]
    [9, 10, 11, 13]
    """
    return 9 + next(more for limit, more in ((2**7, 0), (2**8, 1), (2**16, 2), (2**32, 4)) if round_ < limit)


def message_bytes(values: int, round_: int = 1000) -> int:
    """A message of so many float32 values on a TCP connection: header, body, and ZMTP's framing of both.

    A frame's flags and size take 2 bytes, or 9 where it is longer than 255.

    >>> message_bytes(1761), message_bytes(0)
    (7066, 15)
    """
    return sum(size + (2 if size <= 255 else 9) for size in (header_bytes(round_), 4 * values))


def round_bytes(r: Round, values: int) -> int:
    """Of all agents together, in one round."""
    return r.states * message_bytes(values) + (r.messages - r.states) * message_bytes(0)


# --- agreement -----------------------------------------------------------------------------------------------------


def rounds_to_a_tenth(rate: float) -> float:
    """Rounds until the slowest part of a disagreement ||w_k - centroid|| is a tenth of itself; a server takes 1.

    >>> round(rounds_to_a_tenth(ring_rate(1000)))     # nearly 0.175 K^2
    174975
    """
    return 1.0 if rate < 1e-12 else max(1.0, math.log(10) / -math.log1p(rate - 1))


# --- time ----------------------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """Processor time of an agent in a round, in seconds: a line in the number of its neighbours."""

    step_s: float  # what happens once: the adapt step, waking up, reporting
    neighbour_s: float  # each neighbour: telling it, hearing it, combining what it said
    worst_residual: float = 0.0  # of the measurements, relative

    def of(self, neighbours: float) -> float:
        """Seconds for an agent with so many neighbours."""
        return self.step_s + self.neighbour_s * neighbours


def fitted(measured: Sequence[tuple[float, float]]) -> Cost:
    """The line through points (neighbours, seconds) that is nearest to them in relative terms.

    >>> cost = fitted([(2, 300e-6), (4, 400e-6), (6, 500e-6)])
    >>> round(1e6 * cost.step_s), round(1e6 * cost.neighbour_s), round(cost.worst_residual, 9)
    (200, 50, 0.0)
    """
    neighbours, seconds = np.array(measured).T
    scaled = np.stack([np.ones_like(neighbours), neighbours], axis=1) / seconds[:, None]
    line = np.linalg.lstsq(scaled, np.ones_like(seconds), rcond=None)[0]
    return Cost(float(line[0]), float(line[1]), float(np.abs(scaled @ line - 1).max()))


class Hosts(NamedTuple):
    """Alike machines: so many cores, so many agents on each, and one network card."""

    cores: int
    agents_per_core: float
    bits_per_s: float
    latency_s: float = 1e-4  # of a message, from process to process


def round_s(r: Round, K: int, values: int, cost: Cost, byte_s: float, hosts: Hosts, hub: Cost | None = None) -> float:
    """Seconds that a round of K agents takes, whose neighbours are all on other hosts; infinite, if it never ends.

    Processors work through their agents one after the other, and cards send meanwhile: the slower of the two decides,
    and then a message has to come across. A hub has a host to itself, and its clients wait for it and it for them.
    Where a round is longer than `BEAT_S`, beats are told and heard beside it, each at the price of a small state.

    Args: `cost`, of an agent and a small state; `byte_s`, what each byte beyond that takes of a processor, told and
        heard once; `hub`, of a hub that serves, whose clients have one neighbour each.
    """
    size, each = message_bytes(values), 1.0 if hub else r.messages / K
    more = byte_s * (size - message_bytes(SMALL))
    here, crowd = hosts.cores * hosts.agents_per_core, hosts.agents_per_core
    card_s = 8 * here * (each if hub else r.states / K) * size / hosts.bits_per_s
    took = _with_beats(crowd * (cost.of(each) + each * more), card_s, crowd * each * cost.neighbour_s)
    if hub is not None:
        card_s = 8 * r.told * size / hosts.bits_per_s
        took += _with_beats(hub.of(r.busiest) + r.busiest * more, card_s, r.busiest * hub.neighbour_s)
    return took + hosts.latency_s * (1 if hub is None else 2)


def _with_beats(processor_s: float, card_s: float, beats_s: float) -> float:
    """The slower of the two, when a processor has to tell and hear beats for `beats_s` in every `BEAT_S`."""
    if max(processor_s, card_s) <= BEAT_S:
        return max(processor_s, card_s)
    left = 1 - beats_s / BEAT_S
    return max(processor_s / left, card_s) if left > 0 else math.inf


# --- what follows for more machines than there are ------------------------------------------------------------------

# As `difnet bench scale` has said: the costs of agents at so many on a core, of a hub, and of a byte.
FEW, MANY = 5, 50
COSTS = {FEW: Cost(246e-6, 31e-6), MANY: Cost(485e-6, 85e-6)}
HUB, BYTE_S = Cost(128e-6, 49e-6), 1.09e-9
CORES, AGENTS = 16, (10**3, 10**4, 10**5, 10**6)
COLUMNS = {  # of small states many agents share a core, of large ones few: memory allows no more
    "rounds/s, 7 kB, 1 Gbit/s": (SMALL, MANY, 1e9), "rounds/s, 7 kB, 10 Gbit/s": (SMALL, MANY, 1e10),
    "s a round, 26 MB, 1 Gbit/s": (LARGE, FEW, 1e9), "s a round, 26 MB, 10 Gbit/s": (LARGE, FEW, 1e10),
}  # fmt: skip


def extrapolate(words: argparse.Namespace) -> figures.Document:
    """The model's estimates, a line for each family and size."""
    rows = [{"what": f"{family.name} of {K}", "GB a round, 7 kB": round_bytes(family.round(K), SMALL) / 1e9,
             "TB a round, 26 MB": round_bytes(family.round(K), LARGE) / 1e12} | estimates(family, K)
            for family in FAMILIES.values() for K in AGENTS]  # fmt: skip
    notes = [
        "EXTRAPOLATED: nobody has run these. The costs are those of the machine of docs/scale.md; hosts of "
        f"{CORES} such cores, {MANY} agents on a core with small states and {FEW} with large ones, every "
        "neighbour on another host, 0.1 ms for a message to come across.",
        "Never: beats alone take more than a processor. With large states the adapt step is not counted: it is another "
        "one for every network.",
    ]
    return figures.document(rows, {}, notes)


def estimates(family: Family, K: int) -> dict[str, float | str]:
    """Rounds per second of small states, and seconds per round of large ones."""
    told: dict[str, float | str] = {}
    for name, (values, crowd, bits_per_s) in COLUMNS.items():
        seconds = round_s(family.round(K), K, values, COSTS[crowd], BYTE_S, Hosts(CORES, crowd, bits_per_s),
                          HUB if family.more else None)  # fmt: skip
        told[name] = "never" if math.isinf(seconds) else seconds if values == LARGE else 1 / seconds
    return told


if __name__ == "__main__":
    figures.main(extrapolate)
