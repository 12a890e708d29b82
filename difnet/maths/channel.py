"""What would it take to send these messages over a radio channel? A model, in closed form: nothing is measured here.

Source: Meta-Backward, section V-A: the rate of a channel with additive white Gaussian noise, one band per agent.
"""

import math
from typing import NamedTuple, Protocol


class Channel(Protocol):
    """The constants of the model, all positive; those of the sinusoid experiment are a run's defaults."""

    bandwidth_hz: float  # B, of one agent
    power_w: float  # P, while it sends
    noise_w_per_hz: float  # N0, power spectral density
    bits: int  # per value
    broadcast: bool  # whether a hub's answers are charged


class Upload(NamedTuple):
    """What sending takes: one message, or many."""

    seconds: float
    joules: float


def rate_bits_per_s(bandwidth_hz: float, power_w: float, noise_w_per_hz: float) -> float:
    """The capacity R = B log2(1 + P / (N0 B)) of a channel with white Gaussian noise, in bits per second.

    The paper's constants (5 kHz, 2 W, 1e-4 W/Hz) make a signal-to-noise ratio of 4, which is 6.02 dB. It prints
    13.86 dB, which is 10 ln 4: the natural logarithm in place of the decimal one.

    Source: Meta-Backward, eq. (33).

    >>> round(rate_bits_per_s(5000, 2, 1e-4), 2)
    11609.64
    """
    # log1p: 1 + P / (N0 B) would round to 1, and the rate to 0, on a very wide band
    return bandwidth_hz * math.log1p(power_w / (noise_w_per_hz * bandwidth_hz)) / math.log(2)


def upload(values: int, channel: Channel) -> Upload:
    """One message of so many values: tau = bits * values / R, and E = P tau.

    Source: Meta-Backward, section V-A, below eq. (33).

    >>> from difnet.config import Channel
    >>> seconds, joules = upload(1761, Channel())
    >>> round(seconds, 4), round(joules, 4)
    (4.8539, 9.7078)
    """
    rate = rate_bits_per_s(channel.bandwidth_hz, channel.power_w, channel.noise_w_per_hz)
    seconds = channel.bits * values / rate
    return Upload(seconds, channel.power_w * seconds)


def charge(uploads: int, rounds: int, busiest: float, values: int, channel: Channel, *, is_served: bool) -> Upload:
    """All messages of a run so far.

    Every upload costs its energy. Agents send side by side, each on its own band, and one agent's messages go out one
    after another: a round lasts as long as its busiest agent sends. The paper charges uploads alone; with
    `channel.broadcast`, a hub that serves answers once in each round, to all at once and at the agents' power.

    Args: `uploads`, messages of all agents together; `busiest`, those of the busiest agent in one round (its number of
        neighbours; of a hub's client 1); `values` per message; `is_served`, whether a hub serves the others.

    >>> from difnet.config import Channel
    >>> star = charge(uploads=300, rounds=100, busiest=1, values=1761, channel=Channel(), is_served=True)
    >>> round(star.seconds, 2), round(star.joules, 2)
    (485.39, 2912.34)
    """
    one = upload(values, channel)
    answers = rounds if channel.broadcast and is_served else 0
    return Upload((rounds * busiest + answers) * one.seconds, (uploads + answers) * one.joules)
