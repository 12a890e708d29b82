"""`difnet compare`: two run folders -> what differs, side by side."""

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN_PREFIXES = ("loss.", "accuracy.", "bytes.")
SHOWN = (
    "consensus_error", "iterations", "seconds", "ready_s", "rounds_per_s", "cpu_s_per_agent_round", "pss_mb_per_agent",
    "energy.joules", "missed_exchanges", "one_sided_exchanges", "lost_agents",
)  # fmt: skip


@click.command(short_help="Put two runs side by side.")
@click.argument("a")
@click.argument("b")
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(a: str, b: str, home: str, as_json: bool) -> None:
    """Put runs A and B side by side: what differs in their configurations, their figures with the ratio B/A, and
    whether they ended in the same launch model, bit for bit.

    \b
    Examples:
      difnet compare runs/2026-11-20_14-00-22_ring40_dif-maml_s0 latest
      difnet compare runs/2026-11-20_14-00-22_ring40_dif-maml_s0 latest --json
    """
    import json

    from rich.console import Console

    from difnet.record import finding

    document = compare(finding.load(finding.resolve(a, home)), finding.load(finding.resolve(b, home)))
    if as_json:
        click.echo(json.dumps(document))
    else:
        Console(highlight=False, emoji=False, markup=False).print(_table(document))


def compare(a: Any, b: Any) -> dict[str, Any]:
    """Two runs as one document: what differs in `config`, `figures` with their ratio b/a, and `same_launch_model`."""
    from difnet.record import comparing

    left, right = comparing.flatten(a.summary), comparing.flatten(b.summary)
    names = [n for n in dict.fromkeys([*left, *right]) if n in SHOWN or n.startswith(SHOWN_PREFIXES)]
    return {
        "a": str(a.folder),
        "b": str(b.folder),
        "config": {n: list(pair) for n, pair in comparing.differences(a.config, b.config).items()},
        "figures": {n: _figures(left.get(n), right.get(n)) for n in names},
        "energy_quality": [left.get("energy.quality"), right.get("energy.quality")],
        "same_launch_model": comparing.same_bits(a, b),
    }


def _figures(*values: Any) -> dict[str, float | None]:
    x, y = (len(v) if isinstance(v, list) else v for v in values)
    return {"a": x, "b": y, "ratio": y / x if x and y is not None else None}


def _table(document: dict[str, Any]) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from difnet.record.formatting import harmless, printable

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for head in ("A", "B", "B/A"):
        table.add_column(head, justify="right")
    for name, values in document["config"].items():
        shown = (Text("–" if v is None else printable(str(v))) for v in values)
        table.add_row(printable(name), *shown, "", style="yellow")
    for name, row in document["figures"].items():
        table.add_row(*_row(name, row, document["energy_quality"]))
    told = {
        True: "the same launch model, bit for bit",
        False: "different launch models",
        None: "nothing known about their launch models: a folder has no launch-model.safetensors",
    }[document["same_launch_model"]]
    config = "" if document["config"] else " Their configurations are the same."
    verdict = Text(f"A and B: {told}.{config}", "bold")
    return Group(Text(harmless(f"A  {document['a']}\nB  {document['b']}")), Text(), table, Text(), verdict)


def _row(name: str, row: dict[str, float | None], energy_quality: list[str | None]) -> tuple[str, str, str, str]:
    from difnet.record.formatting import bytes_text, number_text

    show = bytes_text if name in ("bytes.payload", "bytes.wire") else number_text
    if name == "energy.joules":
        name += f" ({' / '.join(dict.fromkeys(str(q or 'unknown') for q in energy_quality))})"
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
    return name, show(row["a"]), show(row["b"]), ratio
