"""`difnet export`: a launch model for somebody who has no difnet, or (`export compose`) a run for containers."""

from pathlib import Path
from typing import Any

import click


class Export(click.Command):
    """`export RUN`; but `export compose` is a command of its own, with words of its own."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] != ["compose"]:
            return super().make_context(info_name, args, parent, **extra)
        from difnet.cli import export_compose

        return export_compose.command.make_context(f"{info_name} compose", args[1:], parent, **extra)


@click.command(cls=Export, short_help="Write a launch model for PyTorch, safetensors or ONNX, with a model card.")
@click.argument("run", default="latest")
@click.option("--format", "format_", required=True, type=click.Choice(["torch", "safetensors", "onnx"]))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Where to.  [export/launch-model.… in the run's folder]")  # fmt: skip
@click.option("--force", is_flag=True, help="Write over files that are there.")
@click.option("--runs", "home", default="runs", show_default=True, metavar="DIR", help="Where runs lie.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(run: str, format_: str, output: Path | None, force: bool, home: str, as_json: bool) -> None:
    """Write the launch model of RUN (a run, or a .safetensors file), and a model card MODEL.md beside it.

    Of a model of --task table that was fitted, torch and onnx take raw rows and give probabilities, or values in the
    target's own unit, anywhere; the file says what its columns are.

    `difnet export compose` writes a run as a docker-compose file instead; it has its own --help.

    \b
    Examples:
      difnet export latest --format safetensors
      difnet export latest --format torch -o shared/sinusoids.pt --json
      difnet export clinic.safetensors --format onnx -o shared/clinic/model.onnx
      difnet export compose --topology "cycle_graph(n=5)" -o docker-compose.yml
    """
    import json

    from difnet.after_training.export import export, suffixes_of
    from difnet.cli.launch_model import launch_model

    learnt = launch_model(run, home)
    path = output or learnt.path.parent / "export" / f"launch-model{suffixes_of(learnt)[format_]}"
    written = export(learnt, format_, path, force=force)
    document = {"format": format_, "files": [str(file) for file in written]}
    click.echo(json.dumps(document) if as_json else "\n".join(document["files"]))
