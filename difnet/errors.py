"""What can go wrong, and the exit status each kind of failure ends a command with.

Every message says what is wrong, what we got, what would be right, and what to do next.
"""

import difflib
from collections.abc import Iterable


class DifnetError(Exception):
    """The root of every error difnet raises on purpose; `exit_code` is the command's exit status."""

    exit_code = 1


class ConfigError(DifnetError):
    """A wrong word on the command line or in a run's configuration."""

    exit_code = 2


class TopologyError(ConfigError):
    """A graph or a combination matrix that agents cannot agree over."""


class RunFolderError(ConfigError):
    """A folder that is no run, or a run whose files do not fit together."""


class CheckpointError(RunFolderError):
    """A checkpoint that cannot be used, and why."""


class EnvironmentLacks(DifnetError):
    """This machine lacks something that the command needs."""

    exit_code = 3


class DataError(EnvironmentLacks):
    """A file of a data set that is not what it should be: names the file, the place in it and the remedy."""


class WireError(DifnetError):
    """A message that is not what the protocol allows; it is dropped and counted, never used."""


class AgentLost(DifnetError):
    """An agent process that ended before its run did."""


class Diverged(DifnetError):
    """An intermediate state that is no longer finite."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest known words as a clause to end an error with; "" when nothing is near.

    >>> did_you_mean("ring4O", ["ring40", "star10"])
    "; did you mean 'ring40'?"
    """
    near = difflib.get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
