"""`difnet export`: a launch model for somebody who has no difnet."""

from pathlib import Path

import click


@click.command(short_help="Write a launch model for PyTorch, safetensors or ONNX, with a model card.")
@click.argument("run", default="latest")
@click.option("--format", "format_", required=True, type=click.Choice(["torch", "safetensors", "onnx"]))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Where to.  [export/launch-model.… in the run's folder]")  # fmt: skip
@click.option("--force", is_flag=True, help="Write over files that are there.")
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(run: str, format_: str, output: Path | None, force: bool, home: str, as_json: bool) -> None:
    """Write the launch model of RUN (a run, or a .safetensors file), and a model card MODEL.md beside it.

    \b
    Examples:
      difnet export latest --format safetensors
      difnet export latest --format torch -o shared/sinusoids.pt --json
    """
    import json

    from difnet.cli.trained import launch_model
    from difnet.export import SUFFIXES, export

    learnt = launch_model(run, home)
    path = output or learnt.path.parent / "export" / f"launch-model{SUFFIXES[format_]}"
    written = export(learnt, format_, path, force=force)
    document = {"format": format_, "files": [str(file) for file in written]}
    click.echo(json.dumps(document) if as_json else "\n".join(document["files"]))
