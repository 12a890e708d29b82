"""Who takes part in a round of a served star, and what do the answers come to?"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from difnet.config import Server
from difnet.errors import ConfigError
from difnet.maths.federation import sample_clients, weighted_mean
from difnet.maths.seeding import NETWORK, Purpose, generator


class ServerRounds(NamedTuple):
    """The rounds of one run: a pure function of its seed."""

    settings: Server
    clients: Sequence[int]
    samples: Mapping[int, int]  # client -> how many samples it holds
    drawn: Callable[[int, int], float]  # (client, round) -> how many samples there were to draw its answer from
    seed: int

    @property
    def wanted(self) -> int:
        """m: the answers that a round goes on with."""
        s, K = self.settings, len(self.clients)
        return s.clients or (max(1, round(s.fraction * K)) if s.fraction else K)

    def called(self, i: int, among: Sequence[int] | None = None) -> list[int]:
        """Who is called in round i, of all clients or of those that are still there; in rising order.

        Source: McMahan et al. 2017, Algorithm 1 (a random set of m clients); Bonawitz et al. 2019 for calling more.
        """
        there = self.clients if among is None else among
        m = min(self.wanted + self.settings.oversample, len(there))
        if m == len(there):
            return sorted(there)
        weights = [self.samples[k] for k in there] if self.settings.sampling == "samples" else None
        return sample_clients(generator(self.seed, Purpose.SAMPLE, NETWORK, i), there, m, weights)

    def mean(
        self, i: int, answers: Mapping[int, np.ndarray], told: Mapping[int, int | None] = MappingProxyType({})
    ) -> np.ndarray | None:
        """The weighted mean of round i's answers, in the order of the clients; None where there are fewer than the
        quorum.

        By samples, an answer counts as much as there were samples to draw it from: where an agent has the data of
        several clients, that is the ones whose turn it was (n_k of McMahan et al. 2017), not all.

        Args: `told`, from how many samples each answer was drawn, by those who alone know it.
        """
        if len(answers) < self.settings.quorum:
            return None
        by_samples = self.settings.aggregation == "samples"
        weights = {k: float(told.get(k) or self.drawn(k, i)) if by_samples else 1.0 for k in answers}
        return weighted_mean(answers, weights)

    def check(self) -> None:
        """Raises: ConfigError, if these clients cannot fill a round."""
        K, s = len(self.clients), self.settings
        if self.wanted > K:
            raise ConfigError(f"server.clients is {self.wanted}, but there are {K} clients to call; give at most {K}")
        if s.quorum > self.wanted:
            raise ConfigError(f"server.quorum is {s.quorum}, but a round has {self.wanted} clients; lower it")
