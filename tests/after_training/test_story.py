"""The story of docs/own-data-story.md in a small form: one cut, few iterations, the same commands and files."""

import csv
import os
import re
import subprocess
import sys

import pytest

from difnet.launch_models import read
from tests.conftest import REPOSITORY, environment

pytest.importorskip("sklearn")
pytest.importorskip("pyarrow")


def progression(path) -> list[float]:
    """The targets of a table of the new hospital, read by hand: a mark, ";", blanks around names, decimal commas."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    return [float(row[" progression "].replace(",", ".")) for row in rows]


@pytest.mark.slow
def test_three_hospitals_learn_and_a_fourth_is_predicted(tmp_path):
    """What the table says of the simplest way is what the files say; picture and launch model are there."""
    words = ["--seeds", "1", "--iterations", "5", "--draws", "1"]
    done = subprocess.run([sys.executable, REPOSITORY / "docs" / "own_data_story.py", tmp_path, *words], timeout=400,
                          env=environment(DIFNET_CACHE=str(tmp_path / "cache")), capture_output=True, text=True,
                          cwd=os.fspath(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = {way: [float(cell.split(" ±")[0]) for cell in cells.split(" | ")]
             for way, cells in re.findall(r"^\| ([a-z][^|]*) \| (.*) \|$", done.stdout, re.MULTILINE)}  # fmt: skip
    assert {"alone", "pooled", "pooled, adapted", "difnet", "difnet, not adapted"} <= set(table)
    assert all(len(errors) == 3 and min(errors) > 0 and max(errors) < 500 for errors in table.values())
    folder = tmp_path / "seed-1"
    assert len([*folder.glob("north/*.csv"), *folder.glob("south/*.csv"), *folder.glob("west/*.csv")]) == 12
    for column, rows in enumerate((5, 10, 20)):
        off = []
        for owner in (f"new-{n}" for n in range(1, 5)):
            few = progression(folder / "few" / f"{owner}-0-{rows}.csv")
            off += [abs(y - sum(few) / rows) for y in progression(folder / "test" / f"{owner}-0.csv")]
        assert table["mean of its rows"][column] == pytest.approx(sum(off) / len(off), abs=0.06)
    assert read(folder / "runs" / "hospitals").about["iteration"] == 5
    assert (tmp_path / "own-data-story.png").stat().st_size > 10_000
