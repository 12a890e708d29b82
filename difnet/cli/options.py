"""The words that `launch`, `simulate` and `export compose` share, and the way from them to a RunConfig."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

WORDS = [
    click.option("--topology", metavar="WHERE", help="A name, a generator such as 'cycle_graph(n=6)', or a file."),
    click.option("--agents", type=int, help="How many; a check, since the topology says so."),
    click.option("--weights", help="averaging, metropolis, best-constant, fastest, or given.  [metropolis]"),
    click.option("--strategy", help="diffusion, cta, centralised, fully-connected or noncooperative.  [diffusion]"),
    click.option("--algorithm", help="A plug-in's name, or module:factory.  [dif-maml]"),
    click.option("--task", help="A task family's name, or module:factory.  [sinusoid]"),
    click.option("--model", help="A model's name, or module:factory.  [the task family's own]"),
    click.option("--data-dir", metavar="DIR", help="Where data sets lie.  [$DIFNET_DATA, else ~/.local/share/difnet]"),
    click.option("--init", help="common, separate, or from:PATH first launch models.  [common]"),
    click.option("--iterations", type=int, help="Adapt, exchange, combine so often.  [1000]"),
    click.option("--local-steps", type=int, help="Adapt so often between two exchanges.  [1]"),
    click.option("--tasks", type=int, help="Tasks per agent and adapt step.  [5]"),
    click.option("--shots", type=int, help="Support samples of a task.  [10]"),
    click.option("--queries", type=int, help="Query samples of a task.  [10]"),
    click.option("--inner-lr", type=float, help="Rate of the inner steps.  [0.01]"),
    click.option("--inner-steps", type=int, help="Inner steps.  [1]"),
    click.option("--order", type=int, help="2, or 1 for FOMAML.  [2]"),
    click.option("--outer-lr", type=float, help="Rate of the outer step.  [0.001]"),
    click.option("--optimizer", help="sgd, momentum, adam, yogi or adagrad, outer step.  [adam]"),
    click.option("--mode", help="sync or async rounds.  [sync]"),
    click.option("--combine", metavar="RULE", help="mean, or where some may lie clip, trim:b or median.  [mean]"),
    click.option("--staleness", type=int, help="Rounds a state may be old in async rounds.  [4]"),
    click.option("--eval-every", type=int, help="Iterations between two validations.  [200]"),
    click.option("--measure-every", type=int, help="Iterations between two consensus errors.  [eval-every / 10]"),
    click.option("--eval-tasks", type=int, help="Validation tasks.  [100; 20 for convolutions and LSTMs]"),
    click.option("--target", "targets", multiple=True, metavar="COLUMN|FIGURE",
                 help="What a table's owners predict; or stop when reached: accuracy=0.74, loss@1=0.5."),
    click.option("--schema", type=click.Path(path_type=Path), metavar="FILE",
                 help="What owners' data means, as `difnet data describe` writes it.  [as the data here suggests]"),
    click.option("--hold-out", metavar="PARTS", help="Further owners, who only test: validation=2,test=3."),
    click.option("--seed", type=int, help="Of everything random.  [0]"),
    click.option("--dtype", help="float32 or float64.  [float32]"),
    click.option("--device", help="cpu or cuda.  [cpu]"),
    click.option("--engine", help="auto, aot, traced or eager meta-gradients.  [auto]"),
    click.option("--name", help="Of the run folder.  [date, topology, algorithm, seed]"),
    click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="A TOML file with any of these."),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any field, e.g. algorithm.inner=anil."),
]
DATA = click.option("--data", type=click.Path(path_type=Path), envvar="DIFNET_OWN_DATA", show_envvar=True,
                    metavar="PATH", help="The owners' own files on this machine, for --task table and the like.")
HERE = [click.option("--runs", metavar="DIR", help="Where run folders go.  [runs]")]
SHOWN = [
    click.option("--print-config", is_flag=True, help="Print the resolved configuration and stop."),
    click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON document."),
    click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors."),
]


def of_a_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the words that say what is run."""
    for word in reversed(WORDS):
        command = word(command)
    return command


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these words, and those that say what becomes of it here."""
    for word in reversed(HERE):
        command = word(shown(command))
    return of_a_run(command)


def shown(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the words that say what is shown of a run."""
    for word in reversed(SHOWN):
        command = word(command)
    return command


def read(words: dict[str, Any], ready_made: str | None = None, data: Path | None = None) -> Any:
    """The RunConfig that the words mean.

    Args: `data`, the owners' files here, from which follows what all owners agree about if nobody has said it.
    Raises: ConfigError, naming every wrong word at once; DataError for files that cannot be read.
    """
    from difnet import catalog, config
    from difnet.data.agreement import settled
    from difnet.errors import ConfigError, did_you_mean

    path, schema, hold_out = words.pop("config"), words.pop("schema", None), words.pop("hold_out", None)
    settings = dict(config.parse_setting(text) for text in words.pop("settings"))
    targets = words.pop("targets", ())
    if figures := [target for target in targets if "=" in target]:
        settings["target"] = figures[-1]
    if schema:
        settings["task.schema"] = str(schema)
    if hold_out:
        settings["hold_out"] = dict(config.parse_setting(part) for part in hold_out.split(","))
    if ready_made is not None:
        if path is not None:
            raise ConfigError(f"both a ready-made run ({ready_made}) and --config ({path}); give one of them")
        path = catalog.find("launch", ready_made)
        if path is None:
            known = [entry.stem for entry in catalog.entries("launch")]
            raise ConfigError(f"no ready-made run called {ready_made!r}{did_you_mean(ready_made, known)} "
                              f"Known: {', '.join(known) or 'none'}. A topology is given as --topology.")  # fmt: skip
    flags = {name: value for name, value in words.items() if value is not None}
    if columns := [target for target in targets if "=" not in target]:
        is_table = config.load(path, settings, flags).task.name == "table"
        settings["task.target" if is_table else "target"] = columns[-1]
    return settled(config.load(path, settings, flags), data)
