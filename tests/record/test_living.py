"""Which runs go on: what is known of each, whoever wrote it."""

import pytest

from difnet.record.living import living
from difnet.system.holding import hold


@pytest.mark.parametrize(
    ("lines", "known"),
    [([], (None, None, None)),
     (['{"event": "RunStarted", "agents": 3, "iterations": 9, "of a newer difnet": 1}'], (3, None, 9)),
     (['{"event": "RunStarted", "agents": 3, "iterations": 9}', '{"event": "Pulse", "iteration": 4}',
       '{"event": "Measured", "iteration": 2}', '{"event": "Pulse", "iter'], (3, 4, 9)),
     (['{"event": "Pulse", "x": ' + "[" * 100_000], (None, None, None))],
    ids=["silent", "newer", "under way", "damaged"],
)  # fmt: skip
def test_a_run_that_goes_on_is_listed_with_what_it_says(tmp_path, monkeypatch, lines, known):
    """One that nobody here can read must not hide the others."""
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("\n".join(lines))
    with hold(folder, print):
        for home in (tmp_path / "runs", tmp_path / "nowhere"):
            [run] = living(home)
            assert (run.run, run.agents, run.iteration, run.iterations) == ("one", *known)
    assert living(tmp_path / "runs") == []
