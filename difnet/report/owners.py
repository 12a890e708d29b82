"""How good is the launch model for each owner of data that stays with its owners? What each found with its own."""

import csv
import io

from difnet.errors import RunFolderError
from difnet.record.formatting import number_text, steps_text
from difnet.record.run import Run
from difnet.report.page import Table
from difnet.system.texts import NotText, read_text


def owners_table(run: Run) -> Table | None:
    """A row for each owner that tested what came out: its loss, and its accuracy, before and after adaptation.

    None where nobody has data of its own.

    Raises: RunFolderError, if test-owners.csv is damaged.
    """
    path = run.folder / "test-owners.csv"
    if not path.is_file():
        return None
    asked = [str(n) for n in (0, *run.config.get("eval_steps", (1, 10)))]
    try:
        told = {(int(row["agent"]), row["steps"]): row for row in csv.DictReader(io.StringIO(read_text(path)))}
        agents = sorted({agent for agent, _ in told})
        figures = [name for name in ("loss", "accuracy") if any(row[name] for row in told.values())]
        steps = [n for n in asked if all((agent, n) in told for agent in agents)]
        rows = tuple(
            (str(agent), *(number_text(float(told[agent, n][name])) for name in figures for n in steps))
            for agent in agents
        )
    except (KeyError, ValueError, TypeError, NotText) as error:
        raise RunFolderError(f"{path} is damaged: {error}") from error
    words = ["before adaptation" if n == "0" else steps_text(n) for n in steps]
    return Table(("owner's agent", *(f"{name} {word}" for name in figures for word in words)), rows)
