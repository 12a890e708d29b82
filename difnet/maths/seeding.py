"""Which generator belongs to (run seed, purpose, agent, block)? The only source of randomness.

A counter-based generator (Philox 4x64) is keyed by what it is for, so that neither the order of processes, nor a
restart, nor the place an agent runs at can change what it draws.
"""

from enum import IntEnum

import numpy as np

from difnet.errors import ConfigError


class Purpose(IntEnum):
    """What random numbers are used for; two purposes never share a stream."""

    INIT = 1
    TRAIN = 2
    VALIDATE = 3
    DELAY = 4
    SAMPLE = 5
    OFFLINE = 6
    TEST = 7


ALL = 2**32 - 1  # in place of a client: how clients are divided
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


def data_generator(data_seed: int, client: int = ALL) -> np.random.Generator:
    """The generator of what is random about data itself, by client: it never depends on the seed of a run.

    Its keys lie far above those that runs use.

    Raises: ConfigError, if `data_seed` is no whole number from 0 to 2^63 - 1.
    """
    if not (type(data_seed) is int and 0 <= data_seed < 2**63):
        raise ConfigError(f"data_seed is {data_seed!r}; it must be a whole number from 0 to 2^63 - 1")
    return np.random.Generator(np.random.Philox(key=np.array([data_seed, 2**62 + int(client)], dtype=np.uint64)))
