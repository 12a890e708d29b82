"""From a RunConfig to a finished run: a registry, a place where hosts run, and a recorder, until it is over."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from difnet import __version__, catalog
from difnet.config import RunConfig
from difnet.errors import ConfigError
from difnet.exchange.registry import Registry
from difnet.places import Contract, Place
from difnet.record.events import Event
from difnet.record.past import Past
from difnet.record.recorder import Recorder
from difnet.runtime import takeover
from difnet.runtime.listening import Launch
from difnet.system.holding import hold
from difnet.system.lifetime import raise_file_limit, stop_signals
from difnet.system.limits import scarcity_named
from difnet.topology import Topology
from difnet.topology.networks import of_run


def launch(
    config: RunConfig, listen: Callable[[Event], None] = lambda event: None, data: Path | None = None
) -> dict[str, Any]:  # fmt: skip
    """Run a network of agent processes until it is done; returns its summary.

    Args: `listen` hears every network-level event; `data`, the owners' files of the agents on this machine.
    Raises: DifnetError, if it cannot start.
    """
    with scarcity_named():
        return _launch(config, of_run(config), listen, data=data)


def resume(
    past: Past, listen: Callable[[Event], None] = lambda event: None, first: int | None = None, data: Path | None = None
) -> dict[str, Any]:
    """Have a run go on that had ended, or was killed; returns its summary.

    If its network still lives, and only its launcher was killed, it is listened to again, and never stopped.

    Args: `first`, the iteration after which it goes on; None: the newest of which everybody has a checkpoint.
    Raises: DifnetError, if it cannot; its folder is then as it was.
    """
    with scarcity_named():
        return _launch(past.config, past.topology, listen, past, first, data)


def _launch(
    config: RunConfig, topology: Topology, listen: Callable[[Event], None], past: Past | None = None,
    first: int | None = None, data: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    place = catalog.load("places", config.place)(config, topology.agents + config.hold_out.count)
    if data and not getattr(place, "sees_data", False):
        raise ConfigError(f"--data {data} is on this machine, and hosts of place {config.place!r} run elsewhere; say "
                          f"--data there, to each host its own")  # fmt: skip
    raise_file_limit()
    left = past.heir_to if past else None
    token = os.environ.get("DIFNET_TOKEN") or (left.token if left else secrets.token_hex(16))
    if past and left:
        takeover.check_reach(past, left, getattr(place, "meeting", left.meeting), token)
    neighbours = {k: sorted({*topology.hears(k), *topology.tells(k)}) for k in range(topology.agents)}
    neighbours |= {topology.agents + n: [] for n in range(config.hold_out.count)}  # who only tests has none
    with stop_signals() as stop, place as hosts, Registry(hosts.meeting, token, neighbours) as registry:
        recorder = Recorder(config, topology, "launch", listen, past)  # its folder is made when a run can begin
        name = recorder.folder.name

        def begin(life: str) -> None:
            registry.run = {
                "run": name, "id": recorder.id, "life": life, "folder": str(recorder.folder),
                "resumes": past is not None, "version": __version__, "config": config.model_dump(exclude_none=True),
                "topology": topology.to_dict(), "hashes": topology.hashes(),
            }  # fmt: skip

        with hold(recorder.folder, recorder.note):
            recorder.start()
            lives_on = getattr(hosts, "lives_on", False)
            legacy = takeover.Legacy(recorder.folder, hosts.meeting, token, config.place) if lives_on else None
            going = Launch(config, recorder, registry, hosts, stop, first, legacy)
            if past and left and lives_on:
                begin(left.life)
                if heard := takeover.look(past, left, registry, recorder, stop):
                    takeover.check_changes(past, first)
                    going.take_over(left, takeover.silent_s(past.folder), heard)
                    return going.until_done()
            begin(f"{name}#{secrets.token_hex(4)}")
            for line in hosts.start(Contract(name, registry.endpoint, token, data, recorder.id)).splitlines():
                recorder.note(line, secret=token)
            return going.until_done()


def plan(config: RunConfig) -> str:
    """What `launch` would start, in the words of the place; nothing is begun, and no folder is made."""
    place: Place = catalog.load("places", config.place)(config, of_run(config).agents + config.hold_out.count)
    return place.plan()
