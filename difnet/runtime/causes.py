"""Why could a process not go on? What others raise, and what it means, in our words."""

import traceback

from difnet.errors import DifnetError, EnvironmentLacks
from difnet.system.limits import scarce

LAST_LINES = 6  # of a traceback


def explained(error: BaseException, doing: str) -> DifnetError:
    """What stood in the way of `doing` something, as an error of ours; others' code is shown where it failed."""
    if isinstance(error, DifnetError):
        return error
    if lacking := scarce(error):
        return EnvironmentLacks(f"{doing}: {lacking}")
    if isinstance(error, SystemExit):
        what = f"a task, model or algorithm called exit({error.code!r}), where it should return or raise"
    else:
        what = f"{type(error).__name__}: {error}"
    told = [line[:200] for line in "".join(traceback.format_tb(error.__traceback__)).splitlines()]
    last = [line for line in told if line.strip(" ^~")][-LAST_LINES:]  # without Python's underlining
    return DifnetError("\n".join([f"{doing}: {what}. It happened in", *last]))
