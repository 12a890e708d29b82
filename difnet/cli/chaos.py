"""`difnet chaos`: break a run that goes on, and see what it survives."""

from functools import partial
from typing import Any

import click


@click.command(short_help="Break a run that goes on, by a plan, to see what it survives.")
@click.argument("run")
@click.option("--plan", metavar="FILE", help="A TOML file of [[fault]] tables; docs/reliability.md has one.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Draw a plan: the same one for the same number.")
@click.option("--faults", default=10, show_default=True, type=click.IntRange(1, 1000), help="How many are drawn.")
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(0.1, 1e6), help="Over how long.")
@click.option("--print-plan", is_flag=True, help="Print the plan as TOML and do nothing.")
@click.option("--json", "as_json", is_flag=True, help="At the end one JSON document on stdout: what was done when.")
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
def command(run: str, as_json: bool, home: str, print_plan: bool, **words: Any) -> int:
    """Kill, stop, slow and cut off agents of RUN, and delay, silence and garble its links, by a plan.

    RUN is one of yours, started by `difnet launch` on this machine: a folder, a name, its beginning, or "latest". What
    was stopped, limited or led astray is mended at the end, also after Ctrl-C or a SIGKILL of this command. Links are
    led through this process; those that are there already are broken once for it, at the beginning and at the end.
    RUN/chaos.jsonl keeps what was done when. Exit status: 0 the plan is done, or the run has ended; 2 a wrong plan, or
    nothing of yours goes on there; 130 after Ctrl-C.

    \b
    Examples:
      difnet chaos latest --seed 1 --print-plan > plan.toml
      difnet chaos latest --seed 2 --faults 3 --seconds 6
    """
    import json

    from difnet.record.formatting import printable
    from difnet.record.living import resolve
    from difnet.runtime.chaos import carry_out
    from difnet.runtime.fault_plan import to_toml
    from difnet.screen.terminal import attempt
    from difnet.system.lifetime import stop_signals

    folder = resolve(run, home)
    plan = _plan(folder, **words)
    if print_plan:
        click.echo(to_toml(plan), nl=False)
        return 0

    def say(text: str) -> None:
        attempt(partial(click.echo, err=True), f"difnet chaos: {printable(text[:10])} {printable(text[10:])}")

    with stop_signals() as stopped:
        done = carry_out(folder, plan, say, stopped, words["seed"] or 0)
    if as_json:
        click.echo(json.dumps(done))
    return 128 + stopped[0] if stopped else 0


def _plan(folder: Any, plan: str | None, seed: int | None, faults: int, seconds: float) -> list[Any]:
    """The faults of the file, or those of the seed.

    Raises: ConfigError, if it is neither or both, or the file cannot be read or is no plan.
    """
    from pathlib import Path

    from difnet.errors import ConfigError
    from difnet.record.files import read_config
    from difnet.runtime.fault_plan import draw, parse
    from difnet.runtime.victims import network
    from difnet.system.texts import NotText, read_text

    if (plan is None) == (seed is None):
        raise ConfigError("give --plan FILE or --seed N, one of them; `--seed 1 --print-plan` prints one to begin with")
    known = network(folder)
    if plan is None:
        assert seed is not None
        has_ports = read_config(folder / "config.toml").get("transport") == "tcp"
        return draw(seed, known.agents, [] if has_ports else known.edges, faults=faults, seconds=seconds)
    try:
        text = read_text(Path(plan))
    except (OSError, NotText) as error:
        raise ConfigError(f"cannot read the plan {plan}: {getattr(error, 'strerror', None) or error}") from error
    return parse(text, known.agents, known.edges, plan)
