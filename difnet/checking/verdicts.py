"""What does a check of a run say? Findings: that it holds, what is wrong and where, or why nobody knows. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

PASS, FAIL, UNKNOWN = "pass", "fail", "unknown"


class Finding(NamedTuple):
    """One word of one check."""

    check: str
    verdict: str  # PASS | FAIL | UNKNOWN
    words: str
    where: str = ""  # a file, an agent or an edge; "" for the whole run


def judged(check: str, looked_at: str, wrong: Iterable[tuple[str, str]], unknown: str = "") -> list[Finding]:
    """The findings of one check: all that is wrong; else why nobody knows; else that it holds.

    Args: `looked_at`, in words; `wrong`, (where, what is wrong); `unknown`, why it could not be looked at.

    >>> judged("weights", "6 columns", [])
    [Finding(check='weights', verdict='pass', words='6 columns', where='')]
    >>> [f.verdict for f in judged("weights", "6 columns", [("column 2", "its sum is 0.9")])]
    ['fail', 'fail']
    """
    if found := [Finding(check, FAIL, words, where) for where, words in wrong]:
        return [Finding(check, FAIL, f"{len(found)} wrong; looked at {looked_at or 'what there is'}"), *found]
    return [Finding(check, UNKNOWN if unknown else PASS, unknown or looked_at)]


def number_of(count: int, what: str) -> str:
    """A count with its noun.

    >>> number_of(1, "edge"), number_of(6, "edge")
    ('1 edge', '6 edges')
    """
    return f"{count} {what}{'' if count == 1 else 's'}"
