"""A run as a docker-compose file: pure text, for `difnet export compose` and for the place `compose`.

Both generations of Compose read it, so keys that 1.29 refuses are not here. No agent depends on another (graphs have
cycles): each waits for the registry by itself.
"""

import json
import os
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from difnet import catalog
from difnet.config import FROM, PLUGINS, RunConfig, load, parse_setting, read_toml
from difnet.data.home import VARIABLE, home
from difnet.errors import ConfigError, EnvironmentLacks
from difnet.exchange.addresses import endpoint_of
from difnet.places import Contract, into_blocks

IMAGE, USER, PORT = "difnet", 10001, 5600
DOCKERFILE = "launch/places/Dockerfile"
ALONE, TOGETHER = 50, 20  # one agent per container for up to 50 agents; else 20, which share a process's memory
TOKEN = "${DIFNET_TOKEN:-internal-network}"  # no secret: who reaches the registry at all is inside that network
OF_THE_FILE = ("place", "hosts_expected", "agents_per_host", "registry", "transport", "runs")  # no words of the run
VOLUME = "difnet-checkpoints"  # of all runs at this engine
CHECKPOINTS = "/checkpoints"  # of agents: the image's root is read-only, and its /tmp is memory
TOPOLOGIES = "/topologies"  # in the dashboard's container

_HEAD = """
x-contained: &contained
  image: ${{DIFNET_IMAGE:-{image}}}
  init: true
  read_only: true
  tmpfs: ["/tmp:size=512m,mode=1777"]
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  mem_limit: ${{DIFNET_MEMORY:-{memory}m}}
  pids_limit: {pids}
  stop_grace_period: 8s
  logging: {{driver: json-file, options: {{max-size: 5m, max-file: "2"}}}}
  healthcheck:  # every loop that turns touches this file once a second
    test: ["CMD-SHELL", "find $$DIFNET_ALIVE -newermt '-30 seconds' | grep -q ."]
    interval: 10s
    timeout: 5s
    retries: 3
    start_period: 90s

x-told: &told
  DIFNET_ALIVE: /tmp/alive
  DIFNET_TOKEN: {token}
  OMP_NUM_THREADS: "1"
  MKL_NUM_THREADS: "1"

x-agent: &agent
  <<: *contained
  command: [host]
  restart: {restart}

services:
"""
_REPORT = """
  report:  # http://127.0.0.1:8000/ shows the newest run; on no network with an agent, since it needs the volume alone
    <<: *contained
    build: {{context: ., dockerfile: {dockerfile}}}
    command: [report, latest, --runs, /runs, --serve, "0.0.0.0:8000"]
    environment: *told
    volumes: ["runs:/runs:ro"]
    networks: [front]
    ports: ["127.0.0.1:${{DIFNET_PORT:-8000}}:8000"]
    restart: "on-failure:3"
"""


@dataclass(frozen=True)
class Network:
    """One run in containers: what is run, and by how many agents."""

    config: RunConfig
    agents: int

    @property
    def shares(self) -> dict[str, range]:
        """Service -> its agents.

        >>> Network(RunConfig(), 60).shares
        {'host-0': range(0, 20), 'host-1': range(20, 40), 'host-2': range(40, 60)}
        """
        most = self.config.agents_per_host or (1 if self.agents <= ALONE else TOGETHER)
        kind = "agent" if most == 1 else "host"
        return {f"{kind}-{h}": share for h, share in enumerate(into_blocks(self.agents, ceil(self.agents / most)))}


def network(config: RunConfig) -> Network:
    """A run, and how many agents its topology has.

    Raises: ConfigError, if there is no such topology.
    """
    from difnet.topology import networks

    return Network(config, networks.of_run(config).agents)


def exported(main: Network, others: Mapping[str, Network], image: str = IMAGE, beside: Path | None = None) -> str:
    """The compose file of a run; `others` are further ones, each in a profile of its name.

    Args: `beside`, the folder in which the file will lie.
    Raises: ConfigError, for what cannot run in containers as they are.
    """
    command = "difnet export compose " + " ".join(_shell(word) for word in words(main.config))
    per_host = main.config.agents_per_host
    command += (f" --agents-per-host {per_host}" if per_host else "") + "".join(f" --profile {n}" for n in others)
    networks = {"": main, **{f"{name}-": other for name, other in others.items()}}
    services = "\n".join(_exported_run(prefix, each, image, beside or Path.cwd()) for prefix, each in networks.items())
    inside = "".join(f"  {prefix}agents: {{internal: true}}  # no way out, and no way in\n" for prefix in networks)
    return (
        _comment(command, main, others) + _head(networks.values(), image, TOKEN, '"on-failure:3"') + services
        + _REPORT.format(dockerfile=DOCKERFILE)
        + f"\nnetworks:\n{inside}  front: {{}}  # only what is inside an ordinary network can be published\n"
        + "\nvolumes:\n  runs: {}\n  checkpoints: {}\n"
    )  # fmt: skip


def started(network: Network, contract: Contract, name: str, image: str = IMAGE) -> str:
    """The compose file of the hosts alone, whose launcher and whose network, called `name`, are there already.

    Raises: ConfigError, for what cannot run in containers as they are.
    """
    _check(network.config, image)
    services = [_host(service, share, contract, network.config, ["agents"])
                for service, share in network.shares.items()]  # fmt: skip
    networks = f"\nnetworks:\n  agents: {{external: true, name: {_quoted(name)}}}\n"
    networks += f"\nvolumes:\n  checkpoints: {{name: {VOLUME}}}  # which a run that is resumed finds again\n"
    return _head([network], image, _quoted(contract.token), '"no"').lstrip("\n") + "\n".join(services) + networks


def words(config: RunConfig) -> list[str]:
    """The words of `difnet launch` that mean this run, as few as will do; where it runs is left out.

    Raises: ConfigError, if a value cannot be written as a word.

    >>> words(load(settings={"topology": "ring6", "algorithm": "fedavg", "algorithm.server": "adam", "iterations": 9}))
    ['--topology', 'ring6', '--set', 'algorithm.name=fedavg', '--set', 'algorithm.server=adam', '--set', 'iterations=9']
    """
    default = RunConfig()
    meant = config.model_copy(update={name: getattr(default, name) for name in OF_THE_FILE})
    settings = _settings(meant.model_dump(exclude_none=True))
    assert load(settings=settings) == meant
    for key in [key for key, value in settings.items() if key != "topology"]:
        fewer = {other: value for other, value in settings.items() if other != key}
        with suppress(ConfigError):  # a plug-in's options without its name
            settings = fewer if load(settings=fewer) == meant else settings
    said = {key: _spelt(key, value) for key, value in settings.items()}
    return ["--topology", said.pop("topology").partition("=")[2], *(w for s in said.values() for w in ("--set", s))]


def _settings(table: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names and values, as `--set` takes them."""
    settings: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            inner = {"name": value["name"], **value["options"]} if name in PLUGINS else value
            settings |= {f"{name}.{key}": inner_value for key, inner_value in _settings(inner).items()}
        else:
            settings[name] = value
    return settings


def _spelt(key: str, value: Any) -> str:
    """One setting as a word, read back to the same value."""
    value = list(value) if isinstance(value, tuple) else value
    for text in (str(value), json.dumps(value, ensure_ascii=False)):
        if parse_setting(f"{key}={text}") == (key, value):
            return f"{key}={text}"
    raise ConfigError(f"{key} = {value!r} cannot be written as a word of a command; give it as a plain value")


def _comment(command: str, main: Network, others: Mapping[str, Network]) -> str:
    told = "\n# ".join(command.splitlines())
    count = f"{main.agents} agents in {len(main.shares)} containers"
    profiles = "".join(f"#   {f'docker-compose up {name}-dashboard':<37} # {other.agents} agents of another run\n"
                       for name, other in others.items())  # fmt: skip
    return f"""# {told}
#
# made this file: {count}, their launcher with the live view, and a page of the newest run.
#
#   docker-compose build                  # once
#   docker-compose up                     # each time another run
{profiles}#   docker-compose down
#
# docs/containers.md tells the rest.
"""


def _head(networks: Any, image: str, token: str, restart: str) -> str:
    most = max(len(share) for network in networks for share in network.shares.values())
    return _HEAD.format(image=image, token=token, restart=restart, memory=1024 + 64 * (most - 1), pids=128 + 8 * most)


def _exported_run(prefix: str, network: Network, image: str, beside: Path) -> str:
    config, shares = network.config, network.shares
    _check(config, image)
    if prefix and not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_-]*", prefix):
        raise ConfigError(f"{prefix[:-1]!r} cannot be the name of a profile; letters, digits, - and _ can")
    topology, mounts = _topology(config.topology, beside)
    said = words(config.model_copy(update={"topology": topology}))
    launch = ["launch", *said, "--hosts-expected", str(len(shares)),
              "--registry", endpoint_of("0.0.0.0", PORT), "--runs", "/runs"]  # fmt: skip
    contract = Contract("", endpoint_of(f"{prefix}dashboard", PORT), TOKEN)
    profile = f"    profiles: [{_quoted(prefix[:-1])}]\n" if prefix else ""
    hosts = [_host(f"{prefix}{name}", share, contract, config, [f"{prefix}agents"]) + profile
             for name, share in shares.items()]  # fmt: skip
    dashboard = f"""  {prefix}dashboard:
    <<: *contained
    command: {_quoted(launch)}
    environment: *told
    volumes: {_quoted(["runs:/runs", *mounts])}
    networks: [{prefix}agents]
    depends_on: {_quoted([f"{prefix}{name}" for name in shares] + ["report"])}
    tty: true  # "docker attach" gives it a size, and the lines become the live screen
    stdin_open: true
    restart: "no"
{profile}"""
    return "\n".join([*hosts, dashboard])


def _host(name: str, agents: range, contract: Contract, config: RunConfig, networks: list[str]) -> str:
    told = contract.variables(agents, advertise=name)
    mounts, found = _mounts(config)
    mounts, found = [f"checkpoints:{CHECKPOINTS}", *mounts], {"DIFNET_CHECKPOINTS": CHECKPOINTS, **found}
    lines = [f"      {key}: {_quoted(value)}\n" for key, value in {**told, **found}.items()
             if value and key != "DIFNET_TOKEN"]  # fmt: skip
    return (f"  {name}:\n    <<: *agent\n    environment:\n      <<: *told\n{''.join(lines)}"
            f"    volumes: {_quoted(mounts)}\n"
            f"    networks: {_quoted(networks)}\n")  # fmt: skip


def _check(config: RunConfig, image: str) -> None:
    """Refuse what the containers do not have."""
    if config.device != "cpu":
        raise ConfigError(f"device {config.device!r}: these containers have none but the cpu; leave --device away")
    for group in PLUGINS:
        choice = getattr(config, group)
        foreign = choice and (":" in choice.name or catalog.foreign(f"{group}s").select(name=choice.name))
        if foreign and image == IMAGE:
            raise ConfigError(
                f"{group} {choice.name!r} is not difnet's own, and the image {IMAGE!r} does not have it; make one that "
                f"does (FROM {IMAGE}, COPY your module, ENV PYTHONPATH) and set DIFNET_IMAGE to its name"
            )


def _topology(spec: str, beside: Path) -> tuple[str, list[str]]:
    """What the dashboard calls a topology, and what has to be mounted for it: a user's own file is not in the image."""
    path = Path(spec) if Path(spec).is_file() and Path(spec).suffix else None
    if path is None and "(" not in spec:
        path = catalog.find("topologies", spec)
        if path is None or _is_in_the_image(path):
            return spec, []
    if path is None:
        return spec, []
    if path.suffix == ".toml" and "file" in read_toml(path):
        raise ConfigError(f"{path} names another file, and only one can be mounted; give that other file itself, or "
                          f"write the network into one: difnet topology make {path} -o network.json")  # fmt: skip
    inside = f"{TOPOLOGIES}/{path.name}"
    source = os.path.relpath(path.resolve(), beside.resolve())
    return inside, [f"{source if source.startswith('..') else f'./{source}'}:{inside}:ro"]


def _is_in_the_image(path: Path) -> bool:
    package = Path(catalog.__file__).resolve().parent
    return path.resolve().parent in (package / "_topologies", package.parent / "topologies")


def _mounts(config: RunConfig) -> tuple[list[str], dict[str, str]]:
    """What the hosts read of this machine, where they look for it, and what they have to be told of it.

    Raises: EnvironmentLacks, if it is not there, or is nothing that they may read.
    """
    mounts: dict[str, Path] = {}
    told: dict[str, str] = {}
    if config.init.startswith(FROM):
        from difnet.launch_models import FILE, rates_beside

        given = Path(config.init.removeprefix(FROM))
        mounts |= {str(path): path for path in (given, rates_beside(given)) if path == given or path.is_file()}
        _check_readable(given / FILE if given.is_dir() else given)
    if catalog.taken("tasks", config.task.name, {"data_dir": None}):
        place = home(config.data_dir).resolve()
        inside = str(Path("/", config.data_dir)) if config.data_dir else str(place)
        mounts[inside] = place
        told = {} if config.data_dir else {VARIABLE: inside}
    for path in mounts.values():
        _check_readable(path)
    return [f"{path}:{inside}:ro" for inside, path in mounts.items()], told


def _check_readable(path: Path) -> None:
    """Refuse what is not there, in whose place an engine would make an empty folder, or is not for everybody."""
    if not path.exists():
        raise EnvironmentLacks(f"the containers would read {path}, which is not there; --data-dir and --init say "
                               f"where data and a first launch model lie")  # fmt: skip
    needed, word = (0o005, "o+rx") if path.is_dir() else (0o004, "o+r")
    if path.stat().st_mode & needed != needed:
        raise EnvironmentLacks(f"the containers' user {USER} may not read {path}: chmod {word} {path}")


def _quoted(value: Any) -> str:
    """A value as YAML: JSON, in which Compose finds no variable of its own (but the token's)."""
    text = json.dumps(value, ensure_ascii=False)
    return text if value == TOKEN else text.replace("$", "$$")


def _shell(word: str) -> str:
    """A word as a shell takes it, in double quotes where that is enough.

    >>> _shell("ring40"), _shell("cycle_graph(n=5)")
    ('ring40', '"cycle_graph(n=5)"')
    """
    plain = shlex.quote(word)
    return plain if plain == word or re.search(r'["$`\\!]', word) else f'"{word}"'
