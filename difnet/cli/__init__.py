"""Which words does a user type? Words -> a RunConfig -> a runtime; no logic of its own, and nothing heavy unasked.

Imports: errors, system, catalog, config, data, maths, launch_models, topology, record, checking, workload, screen,
places, report, doctor, runtime, after_training.
"""

import errno
import importlib
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from difnet import __version__
from difnet.errors import DifnetError
from difnet.system.limits import scarce

COMMANDS = {  # name -> (module of difnet.cli, one line); the module holds a click command called `command`
    "launch": ("launch", "Run a network of agent processes that learn one launch model."),
    "simulate": ("simulate", "Run the same recursion for all agents in one process."),
    "resume": ("resume", "Have a run go on that was killed, stopped, or is to do more iterations."),
    "topology": ("topology", "List, show, make and weigh networks."),
    "data": ("data", "List, check and fetch data sets, and show who has what."),
    "watch": ("watch", "Show the dashboard of a running or finished run."),
    "ps": ("ps", "List the runs that go on on this machine."),
    "logs": ("logs", "Print what the agents of a run printed."),
    "chaos": ("chaos", "Break a run that goes on, by a plan, to see what it survives."),
    "stop": ("stop", "Stop a run that goes on: everything is written."),
    "check": ("check", "Check the record of a run, and pass or fail it."),
    "report": ("report", "Draw the curves of one or several runs and write one HTML page."),
    "compare": ("compare", "Put two runs side by side."),
    "evaluate": ("evaluate", "Test a trained launch model on unseen tasks, with confidence."),
    "fit": ("fit", "Fit a launch model to somebody's own few samples."),
    "predict": ("predict", "Predict the rows of a table with a model that was fitted to one."),
    "export": ("export", "Write a launch model for PyTorch, safetensors or ONNX; or a run as a docker-compose file."),
    "bench": ("bench", "Measure this machine: rounds, start-up, memory, communication, gradients."),
    "doctor": ("doctor", "Say what this machine has for a run, what it lacks, and what would help."),
    "host": ("host", "Plumbing: fork and supervise the agents of one host."),
    "agent": ("agent", "Plumbing: be one agent in the foreground."),
}
UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EBADF)  # EPIPE is click's affair


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command is used; help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"difnet.cli.{COMMANDS[cmd_name][0]}").command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from difnet.errors import did_you_mean

            ctx.fail(f"no command {args[0]!r}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="difnet")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def group(debug: bool) -> None:
    """A network of agents, each its own process, that learns one launch model together without a server.

    \b
    Examples:
      difnet launch --topology ring40
      difnet topology show ring40
    """


def main() -> None:
    """The console script: every error of ours is one message on stderr and its own exit status."""
    from difnet.screen.terminal import attempt, settle_streams

    settle_streams()
    say = partial(attempt, partial(click.echo, err=True))
    try:
        status = group.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        attempt(error.show)
        sys.exit(error.exit_code)
    except DifnetError as error:
        if "--debug" in sys.argv:
            raise
        from difnet.record.formatting import harmless

        say(f"difnet: {harmless(str(error))}")
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno in UNWRITABLE and not error.filename and "--debug" not in sys.argv:
            say(f"difnet: cannot write to where its output goes: {error.strerror}; redirect it elsewhere, or make room")
            sys.exit(3)
        _end_scarce(error, say)
    except (MemoryError, RuntimeError, ImportError) as error:
        _end_scarce(error, say)


def _end_scarce(error: BaseException, say: Callable[[str], object]) -> None:
    """End with what this machine lacks, where that is what an error means; else raise it again."""
    if "--debug" in sys.argv or not (lacking := scarce(error)):
        raise error
    say(f"difnet: {lacking}")
    sys.exit(lacking.exit_code)
