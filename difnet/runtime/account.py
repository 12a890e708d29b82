"""What has an agent done, sent and heard so far? Told in the same words by a process and by a simulated agent."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from difnet.exchange.links import Counters
from difnet.record.events import Evaluated, Judged, Progress, Submitted
from difnet.workload.kernels import by_inner_steps


class Served(NamedTuple):
    """What a hub has had of its clients."""

    messages: int  # heard
    steps: int  # adapt steps behind their answers
    abandoned: int  # rounds with too few answers
    answered: int  # answers to its calls, in time


class Usage(NamedTuple):
    """What an agent has taken of its machine."""

    cpu_s: float
    pss_bytes: int | None  # proportional set size; None where the system does not tell
    peak_bytes: int


class Account(NamedTuple):
    """One agent's totals since its start; a hub that serves speaks for the whole star where it is tested."""

    counters: Counters
    steps: int  # adapt steps of its own
    served: Served | None = None  # of a hub

    def evaluated(self, agent: int, iteration: int, figures: Tensor, eval_steps: Sequence[int]) -> Evaluated:
        """The event of a test, `figures` as `Kernels.evaluate` returns them."""
        submitted, (before, after, accuracy) = self.submitted(agent, iteration), told(figures, eval_steps)
        return Evaluated(agent, iteration, submitted.payload_bytes, submitted.steps, submitted.uploads, before, after,
                         accuracy)  # fmt: skip

    def submitted(self, agent: int, iteration: int) -> Submitted:
        """The event of a launch model that others are to test."""
        sent, star = self.counters, self.served
        payload = sent.payload_bytes + (sent.heard_payload_bytes if star else 0)
        steps, uploads = (star.steps, star.messages) if star else (self.steps, sent.states)
        return Submitted(agent, iteration, payload, steps, uploads)

    def progress(
        self, agent: int, iteration: int, means: Mapping[str, float], usage: Usage, longest_wait_s: float = 0.0
    ) -> Progress:
        """The event that says where an agent stands.

        Args: `means` of what its algorithm reports, over the iterations since the last one: "loss", and more;
            `longest_wait_s`, that it waited for a round.
        """
        c, star = self.counters, self.served
        figures = {name: mean for name, mean in means.items() if name != "loss"}
        return Progress(
            agent, iteration, means.get("loss"), usage.cpu_s, usage.pss_bytes, self.steps, figures, usage.peak_bytes,
            c.payload_bytes, c.wire_bytes, c.messages, 0 if star else c.states, c.missed, c.refused, c.late,
            star.abandoned if star else 0, star.answered if star else 0, c.heard_payload_bytes, c.heard_wire_bytes,
            longest_wait_s,
        )  # fmt: skip


def judged(agent: int, iteration: int, figures: Tensor, eval_steps: Sequence[int]) -> Judged:
    """The event of a test of the network's launch model, `figures` as `Kernels.evaluate` returns them."""
    return Judged(agent, iteration, *told(figures, eval_steps))


def told(figures: Tensor, eval_steps: Sequence[int]) -> tuple[float, dict[str, float], dict[str, float]]:
    """The loss before, the losses after each number of inner steps, and accuracies or nothing."""
    losses, accuracies = by_inner_steps(figures, eval_steps)
    return losses.pop("0"), losses, accuracies
