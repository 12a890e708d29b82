"""Which generator belongs to (run seed, purpose, agent, block)? The only source of randomness.

A counter-based generator (Philox 4x64) is keyed by what it is for, so that neither the order of processes, nor a
restart, nor the place an agent runs at can change what it draws.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are used for; two purposes never share a stream."""

    INIT = 1
    TRAIN = 2
    VALIDATE = 3
    DELAY = 4
    SAMPLE = 5
    OFFLINE = 6
    TEST = 7


NETWORK = 2**32 - 1  # in place of an agent: what all agents share


def generator(seed: int, purpose: Purpose, agent: int = NETWORK, block: int = 0) -> np.random.Generator:
    """The generator of one block of one agent's draws for one purpose.

    The key is (seed, agent and purpose), the counter's upper half is the block: 2^128 draws fit between two blocks.

    >>> a, b = generator(0, Purpose.TRAIN, 3, 7), generator(0, Purpose.TRAIN, 3, 7)
    >>> bool(a.random() == b.random() != generator(0, Purpose.TRAIN, 4, 7).random())
    True
    """
    key = np.array([seed, (agent << 8) | purpose], dtype=np.uint64)
    counter = np.array([0, 0, block, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
