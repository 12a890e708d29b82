"""What may an algorithm's own option be? What is refused is named as on the command line, with what it must be."""

from collections.abc import Iterable
from math import inf

from difnet.errors import ConfigError, did_you_mean


def one_of(option: str, value: str, known: Iterable[str]) -> str:
    """`value`, which is one of those known.

    Raises: ConfigError, if it is none of them; it names those there are.

    >>> one_of("inner", "reptil", ("maml", "reptile"))
    Traceback (most recent call last):
    difnet.errors.ConfigError: algorithm.inner is 'reptil'; it must be one of maml, reptile; did you mean 'reptile'?
    """
    known = list(known)
    if value not in known:
        near = did_you_mean(str(value), known)
        raise ConfigError(f"algorithm.{option} is {value!r}; it must be one of {', '.join(known)}{near}")
    return value


def amount(option: str, value: float, *, or_zero: bool = True) -> float:
    """`value`, a finite number above zero, or zero itself.

    Raises: ConfigError, if it is anything else.

    >>> amount("clip", 0.0, or_zero=False)
    Traceback (most recent call last):
    difnet.errors.ConfigError: algorithm.clip is 0.0; it must be a number above 0
    """
    if type(value) in (int, float) and (0 < value < inf or (or_zero and value == 0)):
        return value
    raise ConfigError(f"algorithm.{option} is {value!r}; it must be a number {'from 0 up' if or_zero else 'above 0'}")
