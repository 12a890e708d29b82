"""What does a check find?"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from difnet.system.programs import Answer

OK, WARN, FAIL = "ok", "warn", "fail"  # from good to bad
Ask = Callable[[list[str]], Answer]


class Finding(NamedTuple):
    """What was seen; a warning and a failure have a remedy."""

    state: str
    seen: str
    remedy: str = ""


def worst(findings: Iterable[Finding]) -> str:
    """The worst state.

    >>> worst([Finding("ok", ""), Finding("warn", "", "")]), worst([])
    ('warn', 'ok')
    """
    return max((finding.state for finding in findings), key=(OK, WARN, FAIL).index, default=OK)
