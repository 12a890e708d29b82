"""`difnet topology`: list, show, make and weigh networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from difnet.screen.terminal import print_table

if TYPE_CHECKING:
    from difnet.topology import Topology

_RULES = click.Choice(["metropolis", "averaging", "best-constant", "fastest", "given"])
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_agents = click.option("--agents", type=click.IntRange(min=1), help="How many agents you expect.")


@click.group()
def command() -> None:
    """List, show, make and weigh networks.

    A network is a name in topologies/, a generator expression of networkx, or a file.

    \b
    Examples:
      difnet topology list
      difnet topology show "erdos_renyi_graph(n=40, p=0.12, seed=4)"
    """


@command.command("list")
@_json
def list_(as_json: bool) -> None:
    """Name the networks that are there.

    \b
    Examples:
      difnet topology list
    """
    from difnet import catalog
    from difnet.config import read_toml

    found = []
    for path in catalog.entries("topologies"):
        table = read_toml(path)
        kind = table.get("graph") or ("edges" if "edges" in table else table.get("file", ""))
        words = {"agents": table.get("agents"), "graph": kind, "weights": table.get("weights", "")}
        found.append({"name": path.stem, **words, "note": table.get("note", "")})
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        print_table(["name", "agents", "graph", "weights", "note"], [list(row.values()) for row in found])


@command.command()
@click.argument("spec", metavar="NETWORK")
@click.option("-o", "--output", type=click.Path(dir_okay=False, writable=True), help="Draw it: .png, .svg or .pdf.")
@click.option("--weights", type=_RULES, help="Another weights rule than the network's own.")
@_agents
@_json
def show(spec: str, output: str | None, weights: str | None, agents: int | None, as_json: bool) -> None:
    """Say how a network is built, how fast it mixes and what it agrees on.

    \b
    Examples:
      difnet topology show ring40
      difnet topology show paper6 --weights averaging -o paper6.png
    """
    from difnet.errors import ConfigError
    from difnet.topology.networks import load

    if output and Path(output).suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"cannot draw to {output!r}: pictures end in .png, .svg or .pdf.")
    topology = load(spec, agents=agents, weights=weights)
    facts = _facts(topology)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
    else:
        _print_facts(topology, facts)
    if output:
        from difnet.report.network_drawing import save_picture

        try:
            save_picture(topology, output)
        except OSError as error:
            raise ConfigError(f"cannot write {output}: {error.strerror}.") from error
        click.echo(f"wrote {output}", err=True)


@command.command()
@click.argument("spec", metavar="NETWORK")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, writable=True),
              help="Where to: .toml, .json, .graphml or .edgelist.")  # fmt: skip
@click.option("--weights", type=_RULES, help="Another weights rule than the network's own.")
@_agents
def make(spec: str, output: str, weights: str | None, agents: int | None) -> None:
    """Write a network to a file that every command reads back.

    \b
    Examples:
      difnet topology make "cycle_graph(n=6)" -o ring.toml
      difnet topology show ring.toml
    """
    from difnet.topology.networks import load, save

    topology = load(spec, agents=agents, weights=weights)
    save(topology, path := Path(output))
    click.echo(f"wrote {output}: {topology.agents} agents, {len(topology.edges)} edges", err=True)
    if path.suffix not in (".toml", ".json"):
        click.echo(
            f"{path.suffix} files hold the graph alone; choose weights with --weights when you use it.", err=True
        )


@command.command()
@click.argument("spec", metavar="NETWORK")
@click.option("--matrix", type=_RULES, help="Print A of this rule as CSV instead; row l, column k.")
@_json
def weights(spec: str, matrix: str | None, as_json: bool) -> None:
    """Compare the weights rules on one graph.

    \b
    Examples:
      difnet topology weights paper6
      difnet topology weights paper6 --matrix metropolis > A.csv
    """
    from difnet.errors import TopologyError
    from difnet.topology import weights
    from difnet.topology.networks import load

    if matrix:
        A = load(spec, weights=matrix).A
        click.echo("\n".join(",".join(repr(float(a)) for a in row) for row in A))
        return
    topology = load(spec)
    rules: dict[str, Any] = {}
    for name, rule in weights.RULES.items():
        try:
            rules[name] = _mixing_facts(rule(topology.graph))
        except TopologyError as error:
            rules[name] = {"refused": str(error)}
    if as_json:
        click.echo(json.dumps({"name": topology.name, "agents": topology.agents, "rules": rules}, indent=1))
        return
    rows = []
    for name, facts in rules.items():
        if "refused" in facts:
            rows.append([name, "-", "-", "-", facts["refused"].split(",")[0]])
        else:
            agreed = "the plain mean" if facts["doubly_stochastic"] else "a weighted mean"
            rounds = facts["iterations_to_agreement"]
            rows.append([name, f"{facts['mixing_rate']:.6f}", rounds, _yes(facts["doubly_stochastic"]), agreed])
    print_table(["rule", "mixing rate", "iterations to 1/1000", "doubly stochastic", "agrees on"], rows)


def _mixing_facts(A: Any) -> dict[str, Any]:
    from difnet.maths import mixing

    rate = mixing.mixing_rate(A)
    rounds = mixing.iterations_at(rate)
    return {
        "mixing_rate": rate,
        "iterations_to_agreement": rounds,
        "doubly_stochastic": mixing.is_doubly_stochastic(A),
    }


def _facts(topology: Topology) -> dict[str, Any]:
    """Everything `show` says; these names are for scripts."""
    from difnet.maths import mixing

    degrees = [len(topology.hears(k)) for k in range(topology.agents)]
    return {
        "name": topology.name,
        "source": topology.source,
        "note": topology.note,
        "agents": topology.agents,
        "edges": len(topology.edges),
        "directed": topology.directed,
        "hub": topology.hub,
        "degree": {"least": min(degrees), "mean": sum(degrees) / len(degrees), "most": max(degrees)},
        "rule": topology.rule,
        **_mixing_facts(topology.A),
        "agrees_on": mixing.perron(topology.A).tolist(),
    }


def _print_facts(topology: Topology, facts: dict[str, Any]) -> None:
    from difnet.topology import UNUSED_WEIGHTS

    rate, degree, agreed = facts["mixing_rate"], facts["degree"], facts["agrees_on"]
    rounds = facts["iterations_to_agreement"]
    if facts["doubly_stochastic"]:
        mean = "the plain mean: every agent counts alike"
    else:
        most, least = max(range(len(agreed)), key=agreed.__getitem__), min(range(len(agreed)), key=agreed.__getitem__)
        mean = f"a weighted mean: agent {most} counts {agreed[most]:.4g}, agent {least} only {agreed[least]:.4g}"
    lines = {
        "network": f"{topology.name}{', directed' if topology.directed else ''}",
        "note": topology.note,
        "source": topology.source,
        "agents": topology.agents,
        "edges": facts["edges"],
        "hub": "" if topology.hub is None else f"agent {topology.hub}",
        "neighbours heard": f"{degree['least']} to {degree['most']}, {degree['mean']:.2f} on average",
        "weights": topology.rule + (f"  ({UNUSED_WEIGHTS})" if topology.unused_weights else ""),
        "mixing rate": f"{rate:.6f}" + ("" if rounds else "  (it never agrees)"),
        "agreement": f"distances between agents shrink to 1/1000 in {rounds} iterations" if rounds else "",
        "doubly stochastic": _yes(facts["doubly_stochastic"]),
        "agrees on": mean,
    }
    print_table(None, [[word, text] for word, text in lines.items() if text != ""])


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"
