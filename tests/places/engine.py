"""A private container engine: Debian's own daemon, in namespaces of its own, of which nothing remains.

The daemon has its own network, mounts and processes, and keeps all its files in one folder. It never sees the machine's
own engine, if there is one, and containers reach no other network than those they make themselves.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from difnet.errors import EnvironmentLacks
from tests.conftest import REPOSITORY, Result, until

# The distribution's own client comes first: a newer one, found elsewhere, may refuse to speak with an older daemon.
SEARCHED = os.pathsep.join(["/usr/sbin", "/usr/bin", "/sbin", "/bin", os.environ.get("PATH", "")])
PACKAGES = {
    "dockerd": "docker.io", "docker": "docker.io", "docker-compose": "docker-compose", "debootstrap": "debootstrap",
    "ip": "iproute2", "iptables": "iptables", "unshare": "util-linux", "nsenter": "util-linux",
}  # fmt: skip
LONGEST_SOCKET = 107  # bytes of a Unix socket's path
START_S = 60.0
ROOM = 6 << 30  # bytes: twice what difnet's image and its build take


@dataclass(frozen=True)
class Engine:
    """A running daemon. `pid` is the first process of its namespaces, as this process sees it."""

    folder: Path
    pid: int

    def docker(self, *arguments: str | Path, timeout_s: float = 60.0) -> Result:
        """Run `docker ARGUMENTS…` against this daemon."""
        return self.inside("docker", *arguments, timeout_s=timeout_s)

    def compose(self, *arguments: str | Path, cwd: Path, timeout_s: float = 90.0, **extra: str) -> Result:
        """Run `docker-compose ARGUMENTS…` in the folder `cwd` against this daemon, with `extra` in its environment."""
        return self.inside("docker-compose", *arguments, cwd=cwd, timeout_s=timeout_s, **extra)

    def inside(
        self, *command: str | Path, cwd: Path | None = None, timeout_s: float = 60.0, **extra: str
    ) -> Result:
        """Run any command in the daemon's network, where published ports are on 127.0.0.1.

        Raises: subprocess.TimeoutExpired, after which the command has been killed.
        """
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *map(str, command)], cwd=cwd or self.folder,
            env={**self.environment(), **extra}, capture_output=True, text=True, timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    def started(self, *command: str | Path, cwd: Path | None = None, **extra: str) -> subprocess.Popen:
        """The same, still running: for `docker-compose up`. Whoever starts it ends it."""
        return subprocess.Popen(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *map(str, command)], cwd=cwd or self.folder,
            env={**self.environment(), **extra}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def environment(self) -> dict[str, str]:
        """What a client needs to find this daemon and no other, without the tester's own settings."""
        ours = {"PATH": SEARCHED, "HOME": str(self.folder), "DOCKER_HOST": f"unix://{_socket(self.folder)}"}
        return {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "COMPOSE_", "PYTHON"))} | ours

    def left(self) -> list[str]:
        """Containers, volumes and networks that somebody made, as words; they are removed on the way."""
        found = []
        for kind, listing, removal in (
            ("container", ["ps", "--all"], ["rm", "--force", "--volumes"]),
            ("volume", ["volume", "ls"], ["volume", "rm", "--force"]),
            ("network", ["network", "ls", "--filter", "type=custom"], ["network", "rm"]),
        ):
            for name in self.docker(*listing, "--quiet").out.split():
                self.docker(*removal, name)
                found.append(f"{kind} {name}")
        return found


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """Run a private daemon that keeps everything in `folder`, new or empty, which is gone afterwards.

    All of it ends with this block, and also when this process is killed: containers, networks, mounts, cgroups, files.

    Raises: EnvironmentLacks, where this machine cannot run one: says why and what to install.
    """
    _refuse_without_means(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "daemon.json").write_text("{}")  # else the machine's own
    cgroup = f"difnet-tests-{os.getpid()}-{folder.name}"
    # The mark by which a test finds its own processes is not the engine's, which outlives it.
    environment = {k: v for k, v in os.environ.items() if k != "DIFNET_TEST"}
    guard = subprocess.Popen(
        [sys.executable, "-m", "tests.places.guard", str(os.getpid()), str(folder), cgroup, *_command(folder, cgroup)],
        env={**environment, "PATH": SEARCHED, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(folder)}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield _awaited(guard, folder)
    finally:
        guard.terminate()
        guard.communicate(timeout=60)


def _command(folder: Path, cgroup: str) -> list[str]:
    """Namespaces, and the daemon as their first process: when it goes, the kernel ends all others.

    Images are kept in memory where there is plenty, which spares the disk a hundred thousand small files that nobody
    wants to keep. One driver of cgroups works with every generation of them, also where no systemd runs.
    """
    steps = ["ip link set lo up", 'exec "$@"']
    if psutil.virtual_memory().available > 2 * ROOM:
        (folder / "data").mkdir(exist_ok=True)
        steps.insert(1, f"mount -t tmpfs -o size={ROOM} tmpfs {shlex.quote(str(folder / 'data'))}")
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    daemon = [
        "dockerd", "--config-file", folder / "daemon.json", "--host", f"unix://{_socket(folder)}",
        "--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "pid",
        "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{cgroup}",
    ]  # fmt: skip
    return [*namespaces, "sh", "-c", " && ".join(steps), "sh", *map(str, daemon)]


def _awaited(guard: subprocess.Popen, folder: Path) -> Engine:
    """The engine, as soon as it answers."""
    until(lambda: _socket(folder).exists() or guard.poll() is not None, "the daemon's socket", START_S)
    if guard.poll() is None:
        unshare = psutil.Process(guard.pid).children()[0]
        ready = Engine(folder, unshare.children()[0].pid)
        if ready.docker("version", timeout_s=START_S).status == 0:
            return ready
    guard.terminate()
    said = guard.communicate(timeout=60)[1].strip() or "nothing"
    raise EnvironmentLacks(f"this machine's kernel does not let a container daemon run; its last words: {said}")


def _refuse_without_means(folder: Path) -> None:
    if os.geteuid() != 0:
        raise EnvironmentLacks(f"a container daemon is run by root, and this is user {os.geteuid()}: become root")
    missing = [program for program in PACKAGES if not shutil.which(program, path=SEARCHED)]
    if missing:
        packages = " ".join(sorted({PACKAGES[program] for program in missing}))
        raise EnvironmentLacks(f"no {', '.join(missing)} on this machine: apt-get install {packages}")
    if len(str(_socket(folder))) > LONGEST_SOCKET:
        raise EnvironmentLacks(f"{folder} is too long a path for a daemon's socket: set TMPDIR to a shorter one")


def _socket(folder: Path) -> Path:
    return folder / "sock"
