"""Sine waves: regression tasks whose amplitudes are divided among the agents.

Source: Kayaalp, Vlaski, Sayed, "Distributed Meta-Learning with Networked Agents", section IV-A, after Finn et al. 2017.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import mse_loss

from difnet.errors import ConfigError
from difnet.meta import Batch, Tasks


class Sinusoid:
    """y = a sin(x - p): a from the agent's own part of the amplitudes, p and x uniform."""

    loss = staticmethod(mse_loss)
    default_model = "mlp"

    def __init__(
        self, agents: int, shots: int, queries: int, amplitude: tuple[float, float], phase: tuple[float, float],
        own: tuple[float, ...] | None = None,
    ) -> None:  # fmt: skip
        self.agents, self.shots, self.queries = agents, shots, queries
        self.amplitude, self.phase, self.own = amplitude, phase, own

    def interval(self, agent: int | None) -> tuple[float, float]:
        """The amplitudes of one agent: the k-th of K equal parts, or its own one; of all agents for None.

        >>> sinusoid(agents=40, shots=10, queries=10, amplitude=(0.0, 5.0)).interval(39)
        (4.875, 5.0)
        """
        low, high = self.amplitude
        if agent is None:
            return low, high
        if self.own:
            return self.own[agent], self.own[agent]
        width = (high - low) / self.agents
        return low + agent * width, low + (agent + 1) * width

    def manifest(self) -> dict[str, Any]:
        """Who has what: the amplitudes of every agent, and those of unseen tasks."""
        agents = [[{"amplitude": list(self.interval(k))}] for k in range(self.agents)]
        unseen = [{"amplitude": list(self.interval(None))}]
        about = {"division": {"partition": "amplitudes"}, "phase": list(self.phase)}
        return {**about, "agents": agents, "validation": unseen, "test": unseen}

    def draw(self, agent: int | None, count: int, rng: np.random.Generator) -> Tasks:
        """Inputs and targets of shape (count, samples, 1), float64."""
        a = rng.uniform(*self.interval(agent), size=(count, 1, 1))
        p = rng.uniform(*self.phase, size=(count, 1, 1))

        def sample(n: int) -> Batch:
            x = rng.uniform(-5.0, 5.0, size=(count, n, 1))
            return torch.from_numpy(x), torch.from_numpy(a * np.sin(x - p))

        return Tasks(support=sample(self.shots), query=sample(self.queries))


def sinusoid(
    agents: int,
    shots: int,
    queries: int,
    amplitude: tuple[float, float] = (0.1, 5.0),
    phase: tuple[float, float] = (0.0, float(np.pi)),
    amplitudes: Sequence[float] | None = None,
) -> Sinusoid:
    """The sinusoid family, its amplitude interval cut evenly over the agents.

    Args: `amplitudes`, one for each agent in place of its part of the interval, which then is that of unseen tasks
        alone (Meta-Backward, section V-A: 2, 6 and 10 in training, [0.1, 10] in tests).
    Raises: ConfigError for an empty or reversed interval, or amplitudes that are not one for each agent.
    """
    if not amplitude[0] < amplitude[1]:
        raise ConfigError(f"task sinusoid: amplitude is {list(amplitude)}; the first must be below the second")
    if not phase[0] <= phase[1]:
        raise ConfigError(f"task sinusoid: phase is {list(phase)}; the first must not be above the second")
    if amplitudes is not None and len(amplitudes) != agents:
        raise ConfigError(f"task sinusoid: {len(amplitudes)} amplitudes for {agents} agents; give one for each")
    own = None if amplitudes is None else tuple(float(a) for a in amplitudes)
    return Sinusoid(agents, shots, queries, _pair(amplitude), _pair(phase), own)


def _pair(values: Sequence[float]) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)
