"""Do two agents really run here?"""

import json
import sys
import tempfile

from difnet.doctor.finding import FAIL, OK, Finding
from difnet.record.formatting import printable, time_text
from difnet.system.programs import ask

SMOKE_S = 240.0
SMOKE_ITERATIONS = 20


def two_agents(words: tuple[str, ...] = (), timeout_s: float = SMOKE_S) -> Finding:
    """A real launch of two agents, in a temporary folder; `words` are further ones of its command line."""
    with tempfile.TemporaryDirectory(prefix="difnet-doctor-", ignore_cleanup_errors=True) as runs:
        shown = ["launch", "--topology", "path_graph(n=2)", "--iterations", str(SMOKE_ITERATIONS), *words]
        answer = ask([sys.executable, "-m", "difnet", *shown, "--runs", runs, "--quiet", "--json"], timeout_s)
    again = f"difnet launch --topology 'path_graph(n=2)' --iterations {SMOKE_ITERATIONS} shows more"
    if answer.status != 0:
        return Finding(FAIL, f"two agents did not run: {printable(answer.last)[:300]}", again)
    run = json.loads(answer.last)
    rounds, ready = run["iterations"], time_text(run["ready_s"])
    seen = f"two agents ready after {ready}, {rounds} of {SMOKE_ITERATIONS} rounds, engine {run['engine']}"
    if rounds < SMOKE_ITERATIONS:
        return Finding(FAIL, seen, again)
    return Finding(OK, seen)
