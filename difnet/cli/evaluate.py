"""`difnet evaluate`: a launch model on tasks it has never seen, with confidence."""

from pathlib import Path
from typing import Any

import click

from difnet.screen.terminal import print_table

KINDS = {"micro": "all samples"}  # how a figure over clients is called in a table


@click.command(short_help="Test a trained launch model on unseen tasks, with confidence.")
@click.argument("run", default="latest")
@click.option("--data", type=click.Path(path_type=Path), metavar="PATH",
              help="Tables of other owners, for a model of --task table and the like.")
@click.option("--task", help="Another task family's name, or module:factory.  [the run's]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="An option, e.g. task.ways=20.")
@click.option("--tasks", type=click.IntRange(1), default=600, show_default=True,
              help="How many; of clients, all; with --data of each owner.")
@click.option("--steps", default="1,5,10", show_default=True, metavar="N,…", help="Numbers of inner steps, ascending.")
@click.option("--shots", type=click.IntRange(1), help="Support samples of a task.  [as in the run's tests]")
@click.option("--queries", type=click.IntRange(1), help="Query samples of a task.  [as in the run's tests]")
@click.option("--inner-lr", type=float, help="Rate of the inner steps.  [the run's]")
@click.option("--seed", type=click.IntRange(0), help="Of the tasks that are drawn.  [the run's]")
@click.option("--data-dir", metavar="DIR", help="Where data sets lie.  [the run's]")
@click.option("--part", type=click.Choice(["test", "validation"]), default="test", show_default=True)
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(
    run: str, data: Path | None, task: str | None, settings: tuple[str, ...], tasks: int, steps: str, home: str,
    as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Fit a run's launch model to unseen tasks by the run's own algorithm, and tell loss and accuracy before and after:
    means over tasks with the half width of their 95 % confidence interval. Beside it stands what was not trained.

    RUN is a run folder, a name in runs/, "latest", or a .safetensors file that was exported. A model of --task table is
    tested on tables of owners who had no part in it: a half of each one's rows adapts, the other scores, and means are
    over owners; the worst and each one's own figures are told too.

    \b
    Examples:
      difnet evaluate latest --tasks 100
      difnet evaluate latest --steps 1,2,3 --shots 5 --json
      difnet evaluate runs/clinics --data other-clinics --tasks 100
    """
    import json

    from difnet import config
    from difnet.after_training.evaluation import evaluate
    from difnet.cli.data import waiting
    from difnet.cli.launch_model import launch_model
    from difnet.record.files import finite_or_none
    from difnet.record.formatting import harmless

    both = {f"{prefix}{name}": given[name] for name in ("shots", "queries") for prefix in ("", "eval_")}
    words = {**both, "data_dir": given["data_dir"]}
    told = dict(config.parse_setting(text) for text in settings) | {k: v for k, v in words.items() if v is not None}
    with waiting():
        document = evaluate(
            launch_model(run, home), data=data, part=given["part"], tasks=tasks, steps=_numbers(steps),
            seed=given["seed"], inner_lr=given["inner_lr"], task=task, settings=told,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(finite_or_none(document)))
        return
    click.echo(harmless(_head(document)) + "\n")
    print_table(*_table(document))
    if "owners" in document:
        click.echo(f"\nafter {document['owners'][-1]['steps']} inner steps, owner by owner:\n")
        print_table(*_owners(document["owners"]))


def _numbers(text: str) -> list[int]:
    try:
        steps = [int(part) for part in text.split(",")]
    except ValueError:
        steps = []
    if not steps or steps != sorted({n for n in steps if n > 0}):
        raise click.UsageError(f"--steps {text!r} must be ascending whole numbers from 1 up, such as 1,5,10")
    return steps


def _head(document: dict[str, Any]) -> str:
    what = "clients held out" if document["clients"] else "unseen tasks"
    if "owners" in document:
        what = f"tasks of each of {len({row['owner'] for row in document['owners']})} other owners"
    lines = [
        f"{document['launch_model']}, iteration {document['iteration']}",
        f"{document['tasks']} {what} of {document['task']['name']}, for {document['part']}; inner rate "
        f"{document['inner_lr']}; mean ± half width of the 95 % confidence interval",
    ]
    if document["transductive"]:
        lines.append("Evaluation is transductive: batch normalisation takes the statistics of the batch at hand, so a "
                     "prediction depends on the other samples of its batch.")  # fmt: skip
    return "\n".join(lines)


def _table(document: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: a line for each model and number of inner steps, a column for each figure."""
    from difnet.record.formatting import steps_text

    rows = document["rows"]
    figures = dict.fromkeys(name for row in rows for name in row if name not in ("model", "steps"))
    columns = [(name, kind) for name in figures for kind in ("mean", "micro", "median", "worst")
               if any(kind in row.get(name, {}) for row in rows)]  # fmt: skip
    lines = []
    for before, row in zip([None, *rows], rows, strict=False):
        steps = "" if row["steps"] is None else steps_text(str(row["steps"])) if row["steps"] else "before"
        model = "" if before is not None and before["model"] == row["model"] else row["model"]
        lines.append([model, steps, *(_cell(row.get(name), kind) for name, kind in columns)])
    return ["", "", *(name if kind == "mean" else f"{name}, {KINDS.get(kind, kind)}" for name, kind in columns)], lines


def _owners(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """A line for each owner, a column for each figure of each model, after the most inner steps."""
    from difnet.record.formatting import number_text, printable

    last = [row for row in rows if row["steps"] == rows[-1]["steps"]]
    models, owners = (list(dict.fromkeys(row[what] for row in last)) for what in ("model", "owner"))
    figures = [name for name in last[0] if name not in ("model", "steps", "owner")]
    by = {(row["model"], row["owner"]): row for row in last}
    head = [f"{figure}, {model}" for figure in figures for model in models]
    return ["owner", *head], [[printable(owner), *(number_text(by[model, owner][figure]) for figure in figures
                                                   for model in models)] for owner in owners]  # fmt: skip


def _cell(told: dict[str, float | None] | None, kind: str) -> str:
    from difnet.record.formatting import number_text

    if told is None:
        return "–"
    half = told["half_width"] if kind == "mean" else None
    return number_text(told[kind]) + ("" if half is None else f" ± {number_text(half)}")
