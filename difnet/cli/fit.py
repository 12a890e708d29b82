"""`difnet fit`: a launch model made somebody's own."""

from pathlib import Path
from typing import Any

import click


@click.command(short_help="Fit a launch model to somebody's own few samples.")
@click.argument("run", default="latest")
@click.option("--support", required=True, type=click.Path(path_type=Path), metavar="FILE",
              help="The samples to fit to.")
@click.option("--query", type=click.Path(path_type=Path), metavar="FILE", help="Others, to see how good it became.")
@click.option("--held-back", type=float, metavar="SHARE",
              help="Of a table's rows, to see the same.  [0.3 of 20 rows or more, if there is no --query]")
@click.option("--steps", type=click.IntRange(0), default=5, show_default=True, help="Inner steps.")
@click.option("--inner-lr", type=float, help="Rate of the inner steps.  [the run's]")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE", help="A .safetensors.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(
    run: str, support: Path, query: Path | None, held_back: float | None, steps: int, inner_lr: float | None,
    output: Path, force: bool, home: str, as_json: bool,
) -> None:  # fmt: skip
    """Fit the launch model of RUN (a run, or a .safetensors file) to the samples in a file, and write the result.

    A model of --task table takes a table such as it was trained on (CSV, TSV, Parquet), in which its schema finds the
    columns; `difnet predict` takes what is written. It holds mean and spread of each column of the rows fitted to.

    Other models take a CSV file of numbers with a header. The column target, label or y is what to predict, else the
    last one is: a class from 0 up for a model with several outputs, any number for a model with one. The other columns
    are the inputs, in order.

    \b
    Examples:
      difnet fit latest --support mine.csv --steps 5 -o mine.safetensors
      difnet fit latest --support mine.csv --query more.csv --inner-lr 0.005 -o mine.safetensors --force --json
      difnet fit runs/clinics --support new-clinic.csv -o clinic.safetensors
    """
    import json

    from difnet.after_training.export import refuse_existing, write_whole
    from difnet.after_training.personalisation import fit, write
    from difnet.cli.launch_model import launch_model
    from difnet.record.files import finite_or_none
    from difnet.record.formatting import printable

    refuse_existing([output], force)
    fitted = fit(launch_model(run, home), support, query, steps=steps, inner_lr=inner_lr, held_back=held_back)
    write_whole(output, lambda scratch: write(fitted.learnt, scratch))
    document = {"file": str(output), **fitted.learnt.about["fitted"], "transductive": fitted.transductive}
    for caution in fitted.cautions:
        click.echo(f"caution: {printable(caution)}", err=True)
    click.echo(json.dumps(finite_or_none(document)) if as_json else "\n".join(_lines(document)))


def _lines(document: dict[str, Any]) -> list[str]:
    from difnet.record.formatting import number_text

    lines = []
    for name, told in document["figures"].items():
        before, after, guess = ({what: number_text(x) for what, x in told.get(when, {}).items()}
                                for when in ("before", "after", "guess"))  # fmt: skip
        courses = [f"{what} {before[what]} -> {after[what]}" + (f" (a guess: {guess[what]})" if what in guess else "")
                   for what in before]  # fmt: skip
        lines.append(f"{name}, {document['samples'][name]} samples: {', '.join(courses)}")
        if name != "support" and not told["after"]["loss"] <= told["before"]["loss"]:
            lines.append(f"fitting made it worse on {name}: try fewer --steps, a smaller --inner-lr, or more rows")
    if document["transductive"]:
        lines.append("batch normalisation: a prediction depends on the other samples of its batch (transductive)")
    return [*lines, f"after {document['steps']} inner steps, rate {document['inner_lr']}: {document['file']}"]
