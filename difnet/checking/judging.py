"""Does the record of a run hold together? Every check, in order, over what a run folder says.

A check is a function of the evidence that returns findings. One that could not look at anything says so, and why.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from difnet.checking import edges, files, results
from difnet.checking.evidence import Evidence, gather
from difnet.checking.verdicts import FAIL, UNKNOWN, Finding
from difnet.record.finding import resolve

CHECKS: dict[str, Callable[[Evidence], list[Finding]]] = {
    "record": files.record,
    "agents": results.agents,
    "weights": files.weights,
    "epochs": edges.epochs,
    "rounds": edges.rounds,
    "exchanges": edges.exchanges,
    "missed": edges.missed,
    "waits": edges.waits,
    "refusals": edges.refusals,
    "measurements": results.measurements,
    "consensus": results.consensus,
    "states": files.states,
    "checkpoints": files.checkpoints,
    "remains": files.remains,
}


class Judgement(NamedTuple):
    """What all checks of a run say."""

    folder: Path
    state: str  # as the run tells it; "going on"; or "unfinished", where nobody holds it and nothing tells of an end
    findings: list[Finding]

    @property
    def verdict(self) -> str:
        """FAIL if any check failed; else "pass", however many could not look."""
        return FAIL if any(f.verdict == FAIL for f in self.findings) else "pass"

    def of(self, check: str) -> list[Finding]:
        """The findings of one check."""
        return [f for f in self.findings if f.check == check]

    @property
    def unknown(self) -> list[str]:
        """The checks that could not look at anything."""
        return [f.check for f in self.findings if f.verdict == UNKNOWN]


def check(word: str, runs: str | Path = "runs") -> Judgement:
    """Every check of the run that a word means.

    Raises: RunFolderError, if there is no such run.
    """
    return judge(resolve(word, runs))


def judge(folder: Path) -> Judgement:
    """Every check of the run in a folder, wherever that was copied to."""
    known = gather(folder)
    state = str(known.summary.get("state")) if known.has_ended else "going on" if known.goes_on else "unfinished"
    return Judgement(folder, state, [finding for look in CHECKS.values() for finding in look(known)])
