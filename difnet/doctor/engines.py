"""Which engines that place hosts are here?"""

import importlib.metadata
import importlib.util
import shutil

from difnet.doctor.finding import OK, WARN, Ask, Finding
from difnet.places.compose import versions
from difnet.record.formatting import printable
from difnet.system.programs import ask


def docker(ask: Ask = ask) -> Finding:
    """The docker daemon and compose, of either generation."""
    only = "only --place compose needs it"
    if not shutil.which("docker") and not shutil.which("docker-compose"):
        return Finding(OK, f"absent; {only}")
    daemon, compose = versions(ask)
    found = [f"{name} {answer.first}" for name, answer in compose.items() if answer.status == 0]
    seen = " and ".join(found) or "no compose"
    if daemon.status != 0:
        said = printable(daemon.last)[:200] or f"exit status {daemon.status}"
        return Finding(WARN, f"{seen}; the daemon: {said}",
                       f"start it, or set DOCKER_HOST, or join the group docker; {only}")  # fmt: skip
    if not found:
        return Finding(WARN, f"docker {daemon.first}, no compose", f"install docker-compose (Debian's name); {only}")
    return Finding(OK, f"docker {printable(daemon.first)}, {printable(seen)}")


def program(name: str, words: list[str], needed: str, ask: Ask = ask) -> Finding:
    """A program that runs elsewhere need, `needed` says which; its absence is no fault."""
    if not shutil.which(name):
        return Finding(OK, f"absent; only {needed} it")
    answer = ask(words)
    if answer.status != 0:
        return Finding(WARN, f"{name} is there, but {' '.join(words)} says: {printable(answer.last)[:200]}",
                       f"mend it if you want it; only {needed} it")  # fmt: skip
    return Finding(OK, printable(answer.first))


def package(name: str, needed: str) -> Finding:
    """The same of a Python package, which is not imported."""
    if not importlib.util.find_spec(name):
        return Finding(OK, f"absent; only {needed} it")
    return Finding(OK, f"{name} {importlib.metadata.version(name)}")
