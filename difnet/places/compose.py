"""Containers on this machine's engine, one per agent; the launcher stays outside, at the gateway of their network."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self

import psutil

from difnet.config import RunConfig
from difnet.errors import EnvironmentLacks
from difnet.exchange.addresses import endpoint_of, parse
from difnet.places import Contract
from difnet.places._compose_file import DOCKERFILE, IMAGE, Network, started
from difnet.system.energy import machine_id
from difnet.system.folders import own_prefix, sweep_orphans
from difnet.system.lifetime import die_with_parent
from difnet.system.programs import Answer, ask

FOLDER = "difnet-compose-"
LABEL = "difnet.launcher"  # of a network: which process made it, on which machine
ENGINE_S, DOWN_S, STOP_S = 20.0, 60.0, 15.0
LAST_LINES = 12
Ask = Callable[[list[str]], Answer]


class Compose:
    """One `docker-compose up` of the hosts, on a network of the run's own that leads nowhere else.

    Leaving it leaves no container, no network and no file.
    """

    def __init__(self, config: RunConfig, agents: int) -> None:
        self._network, self._image = Network(config, agents), os.environ.get("DIFNET_IMAGE") or IMAGE
        self._name = f"difnet-{os.getpid()}"
        self._folder: Path | None = None
        self._up: subprocess.Popen[bytes] | None = None
        self._compose: list[str] = []
        self._gateway = ""
        self.meeting = config.registry or ""

    def plan(self) -> str:
        """The compose file, with words in the places of what is not known yet."""
        return self._file(Contract("RUN", "tcp://GATEWAY:PORT", "TOKEN"))

    def _file(self, contract: Contract) -> str:
        return started(self._network, contract, self._name, self._image)

    def __enter__(self) -> Self:
        self.plan()  # what it refuses is refused before anything is begun
        self._compose = _client()
        if ask(["docker", "image", "inspect", "--format", "{{.Id}}", self._image], ENGINE_S).status != 0:
            raise EnvironmentLacks(f"the engine has no image {self._image!r}: in a checkout of difnet, run "
                                   f"docker build -f {DOCKERFILE} -t {self._image} .")  # fmt: skip
        _sweep_networks()
        sweep_orphans(Path(tempfile.gettempdir()), FOLDER)
        label = f"{LABEL}={os.getpid()}@{machine_id()}"
        _done(ask(["docker", "network", "create", "--internal", "--label", label, self._name], ENGINE_S))
        try:
            self._gateway = _gateway(self._name)
            self.meeting = self.meeting or f"tcp://{self._gateway}:*"
            self._folder = Path(tempfile.mkdtemp(prefix=own_prefix(FOLDER)))  # for this user alone: the token is in it
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        _remove(self._name)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, contract: Contract) -> str:
        """Start the containers. They know the registry by the gateway, whatever else it listens at."""
        assert self._folder
        host, port = parse(contract.registry)
        seen = endpoint_of(self._gateway, port) if host in ("0.0.0.0", "::") else contract.registry
        self._path.write_text(self._file(Contract(contract.run, seen, contract.token)), encoding="utf-8")
        with self._log.open("wb") as log:
            self._up = subprocess.Popen(
                [*self._words, "up", "--no-color", "--no-build"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGTERM),
            )  # fmt: skip
        return f"starting {len(self._network.shares)} containers of the image {self._image}, as project {self._name}"

    def poll(self) -> int | None:
        """What `up` ended with, once every container has."""
        return self._up.poll() if self._up else None

    def stop(self, at_once: bool = False) -> None:
        """Remove the containers, and wait until that is done; they have had their last word from the launcher."""
        if self._up is None:
            return
        ask([*self._words, "down", "--timeout", "0" if at_once else "8"], DOWN_S)
        try:
            self._up.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._up.kill()
            self._up.wait()
        self._up = None

    def logs(self) -> str:
        """The last lines of the containers; of Compose, if they said nothing."""
        if self._folder is None or not self._log.exists():
            return ""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(([line for line in lines if " | " in line] or lines)[-LAST_LINES:])

    @property
    def _path(self) -> Path:
        assert self._folder
        return self._folder / "docker-compose.yml"

    @property
    def _log(self) -> Path:
        return self._path.with_name("log")

    @property
    def _words(self) -> list[str]:
        return [*self._compose, "-p", self._name, "-f", str(self._path)]


def versions(ask: Ask = ask) -> tuple[Answer, dict[str, Answer]]:
    """What the engine's daemon, and Compose of either generation, say when they are asked for their versions."""
    daemon = ask(["docker", "version", "--format", "{{.Server.Version}}"])
    return daemon, {name: ask([*name.split(), "version", "--short"]) for name in ("docker compose", "docker-compose")}


def _client() -> list[str]:
    """Compose, once the daemon has answered.

    Raises: EnvironmentLacks, if there is none, or no daemon to speak to.
    """
    if not shutil.which("docker"):
        raise EnvironmentLacks("place compose needs docker, and there is no such command: install it (Debian: apt-get "
                               "install docker.io docker-compose), or leave --place away")  # fmt: skip
    daemon, clients = versions(partial(ask, timeout_s=ENGINE_S))
    found = [name.split() for name, answer in clients.items() if answer.status == 0]
    if not found:
        raise EnvironmentLacks("place compose needs Compose, and neither `docker compose` nor `docker-compose` is "
                               "there: install it (Debian: apt-get install docker-compose)")  # fmt: skip
    if daemon.status != 0:
        remedy = ("become a member of the group docker, or root" if "permission denied" in daemon.text.lower()
                  else "start it (systemctl start docker), or say where it is with DOCKER_HOST")  # fmt: skip
        raise EnvironmentLacks(f"the container engine does not answer: {daemon.last or 'nothing was said'}; {remedy}")
    return found[0]


def _gateway(network: str) -> str:
    """The address that this machine has in a network of the engine's.

    Raises: EnvironmentLacks, if it has none: then the engine is elsewhere.
    """
    template = "{{range .IPAM.Config}}{{.Gateway}} {{end}}"
    answer = _done(ask(["docker", "network", "inspect", "--format", template, network], ENGINE_S))
    address = next(iter(answer.text.split()), "")
    here = {bound.address for interface in psutil.net_if_addrs().values() for bound in interface}
    if address not in here:
        raise EnvironmentLacks(
            f"the containers' network has its gateway at {address or 'no address'}, which is not on this machine: the "
            f"engine runs elsewhere, or in a virtual machine. Let the launcher run in a container too: "
            f"`difnet export compose` writes the file"
        )
    return address


def _sweep_networks() -> None:
    """Remove what launchers that were killed have left in the engine."""
    form = f'{{{{.Name}}}} {{{{.Label "{LABEL}"}}}}'
    listed = ask(["docker", "network", "ls", "--filter", f"label={LABEL}", "--format", form], ENGINE_S)
    for line in listed.text.splitlines() if listed.status == 0 else []:
        name, _, launcher = line.partition(" ")
        pid, _, where = launcher.partition("@")
        if where == machine_id() and pid.isdigit() and not psutil.pid_exists(int(pid)):
            _remove(name)


def _remove(name: str) -> None:
    """Remove a run's network, and the containers that are still in it."""
    left = ask(["docker", "ps", "--all", "--quiet", "--filter", f"network={name}"], ENGINE_S)
    if left.status == 0 and left.text.strip():
        ask(["docker", "rm", "--force", "--volumes", *left.text.split()], DOWN_S)
    ask(["docker", "network", "rm", name], ENGINE_S)


def _done(answer: Answer) -> Answer:
    if answer.status != 0:
        raise EnvironmentLacks(f"the container engine refuses: {answer.last or 'no reason told'}")
    return answer


def compose(config: RunConfig, agents: int) -> Compose:
    """Containers on this machine, one per agent."""
    return Compose(config, agents)
