"""What a user types about data: what is there, whether it is whole, where it comes from, and who has what."""

import gzip
import hashlib
import json
import struct
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from difnet import catalog, cli
from difnet.data.sources import SOURCES, Count, File, Reading, Source
from difnet.errors import RunFolderError
from difnet.report.partition import AgentData, agent_data, bars, classes_of, picture, rows
from tests.data.serving import serving


@pytest.fixture
def difnet(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DIFNET_DATA", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "nothing"))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["difnet", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


WRITERS = [5, 5, 6, 7]  # of four digits


def idx(kind: int, array: object) -> bytes:
    values = np.asarray(array, dtype={8: "u1", 12: ">i4"}[kind])
    head = bytes([0, 0, kind, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(head + values.tobytes(), mtime=0)


def digits() -> dict[str, bytes]:
    """Four digits in MNIST's files."""
    return {
        "train-images-idx3-ubyte.gz": idx(8, np.zeros((4, 28, 28))),
        "train-labels-idx1-ubyte.gz": idx(8, [1, 2, 3, 4]),
        "qmnist-train-labels-idx2-int.gz": idx(12, [[n + 1, 0, who, 0, 0, 0, 0, 0] for n, who in enumerate(WRITERS)]),
    }


def known_as(files: dict[str, bytes], *counts: Count, address: str = "http://127.0.0.1:1") -> Source:
    return Source(
        "little", "Four digits", ("mnist",), "nobody", "CC0",
        tuple(File(name, (f"sha256:{hashlib.sha256(content).hexdigest()}",), (f"{address}/{name}",))
              for name, content in files.items()),
        "mnist", (Reading({"part": "train"}, counts or (Count(3, 4),)),),
    )  # fmt: skip


@pytest.fixture
def little(monkeypatch):
    """The only data set that is known, and its files."""

    def know(source: Source) -> None:
        monkeypatch.setattr("difnet.data.sources.SOURCES", {source.name: source})

    know(known_as(digits()))
    return know


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_list_names_every_set_with_its_licence_and_where_it_is_looked_for(difnet, tmp_path):
    status, out, err = difnet("data", "list", "--data-dir", tmp_path)
    assert status == 0 and all(name in out for name in SOURCES) and str(tmp_path) in err
    told = json.loads(difnet("data", "list", "--json")[1])
    assert told["home"] == str(tmp_path / "nothing" / "difnet")
    assert {row["name"]: row["state"] for row in told["sets"]} == dict.fromkeys(SOURCES, "absent")
    assert all(row["licence"] and row["owner"] and row["title"] for row in told["sets"])


def test_every_set_that_has_a_family_is_read_by_one_in_the_catalog():
    families = {family for source in SOURCES.values() for family in source.families}
    assert families <= set(catalog.names("tasks"))


def test_the_folder_of_the_variable_is_found_and_that_of_the_option_comes_first(difnet, little, tmp_path, monkeypatch):
    put(tmp_path / "here" / "little", digits())
    monkeypatch.setenv("DIFNET_DATA", str(tmp_path / "here"))
    assert json.loads(difnet("data", "list", "--json")[1])["sets"][0]["state"] == "whole"
    other = json.loads(difnet("data", "list", "--json", "--data-dir", tmp_path / "there")[1])
    assert other["sets"][0]["state"] == "absent"


def test_check_reads_a_whole_set_and_counts_it(difnet, little, tmp_path):
    put(tmp_path / "little", digits())
    status, out, err = difnet("data", "check", tmp_path)
    assert (status, err) == (0, "") and "whole" in out and "4 samples in 3 groups" in out
    [verdict] = json.loads(difnet("data", "check", tmp_path, "--json")[1])
    assert verdict["good"] and set(verdict["files"].values()) == {"whole"}


def test_another_version_that_reads_well_is_a_warning(difnet, little, tmp_path):
    """The same content, packed otherwise, so that its checksum is not known."""
    name = "train-labels-idx1-ubyte.gz"
    repacked = gzip.compress(gzip.decompress(digits()[name]), compresslevel=1, mtime=9)
    put(tmp_path / "little", digits() | {name: repacked})
    status, out, err = difnet("data", "check", tmp_path)
    assert status == 0 and "another version" in out
    assert err.startswith(f"warning: little: {name}") and "reads well" in err


@pytest.mark.parametrize(("spoil", "state", "said"), [
    (lambda files: files | {"train-images-idx3-ubyte.gz": files["train-images-idx3-ubyte.gz"][:-9]}, "damaged",
     "train-images-idx3-ubyte.gz"),
    (lambda files: files | {"train-labels-idx1-ubyte.gz": b"<html>moved</html>"}, "damaged", "train-labels-idx1-ubyte"),
    (lambda files: {n: c for n, c in files.items() if "idx1" not in n}, "incomplete", "there is no train-labels"),
], ids=["cut off", "another file", "lacking"])  # fmt: skip
def test_what_is_wrong_with_a_set_is_said_with_exit_status_3(difnet, little, tmp_path, spoil, state, said):
    put(tmp_path / "little", spoil(digits()))
    status, out, err = difnet("data", "check", tmp_path)
    assert status == 3 and state in out and said in err and "Traceback" not in err
    assert [v["good"] for v in json.loads(difnet("data", "check", tmp_path, "--json")[1])] == [False]
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not kept, "nothing of a set that cannot be read is kept"


def test_counts_that_differ_are_no_other_version(difnet, little, tmp_path):
    """It reads well, but has three writers and four digits where the set has others."""
    put(tmp_path / "little", digits())
    little(known_as(digits(), Count(539, 60000), Count(3, 5)))
    status, out, err = difnet("data", "check", tmp_path)
    assert status == 3 and "damaged" in out and "60000 in 539 or 5 in 3" in err
    little(known_as(digits(), Count(539, 60000), Count(3, 4, "a small part")))
    status, out, err = difnet("data", "check", tmp_path)
    assert status == 0 and "a small part" in out


def test_nothing_to_check_is_exit_status_3_and_an_unknown_name_2(difnet, little, tmp_path):
    status, out, err = difnet("data", "check", tmp_path)
    assert (status, out) == (3, "") and "no data set in" in err and "data get" in err
    status, out, err = difnet("data", "check", tmp_path, "--only", "litle")
    assert (status, out) == (2, "") and "did you mean 'little'" in err


def test_get_fetches_a_set_that_check_then_finds_whole(difnet, little, tmp_path):
    with serving() as server:
        server.serves.update(digits())
        little(known_as(digits(), address=server.address))
        status, out, err = difnet("data", "get", "little", "--dir", tmp_path / "sets")
    assert status == 0 and out.splitlines() == [str(tmp_path / "sets" / "little" / name) for name in digits()]
    assert "nobody" in err and "CC0" in err
    assert difnet("data", "check", tmp_path / "sets")[0] == 0
    status, out, err = difnet("data", "get", "little", "--dir", tmp_path / "sets")
    assert (status, out) == (0, "") and "nothing to fetch" in err


def test_get_without_a_network_is_exit_status_3_and_one_message(difnet, little, tmp_path):
    status, out, err = difnet("data", "get", "little", "--dir", tmp_path / "sets", "--deadline-s", "2")
    assert (status, out) == (3, "") and "is there a network?" in err and "Traceback" not in err
    assert not list((tmp_path / "sets" / "little").iterdir())


def test_get_says_how_to_get_what_has_no_address(difnet):
    status, out, err = difnet("data", "get", "femnist")
    assert (status, out) == (3, "") and "preprocess.sh" in err and "leaf" in err
    assert difnet("data", "get", "femnst")[0] == 2


def test_a_bar_on_a_terminal_goes_to_stderr(difnet, little, tmp_path, monkeypatch):
    put(tmp_path / "little", digits())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, out, _ = difnet("data", "check", tmp_path)
    assert status == 0 and "checking" not in out and "reading" not in out


# Who has what


def test_the_amplitudes_of_six_agents_are_sixths_of_the_interval(difnet):
    status, out, err = difnet("data", "show", "--task", "sinusoid", "--agents", 6, "--set", "task.amplitude=[0, 6]")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["0", "0", "to", "1"], ["1", "1", "to", "2"], ["2", "2", "to", "3"]]  # fmt: skip
    assert lines[7].split()[:4] == ["validation", "0", "to", "6"]
    held = json.loads(difnet("data", "show", "--task", "sinusoid", "--agents", 6, "--json")[1])
    assert [h["who"] for h in held] == [*"012345", "validation", "test"]
    assert held[5]["interval"][1] == held[6]["interval"][1] == 5.0


def test_the_classes_of_every_agent_are_those_that_its_clients_have(difnet):
    """Counted from the data of the clients held out, and from tasks drawn, which the table does not look at."""
    words = ("--set", "task.clients=30", "--set", "task.classes=5")
    out = difnet("data", "show", "--task", "synthetic", "--agents", 4, *words, "--json")[1]
    held = {h["who"]: h for h in json.loads(out)}
    family = catalog.load("tasks", "synthetic")(agents=4, shots=20, queries=20, clients=30, classes=5)
    for part in ("validation", "test"):
        counted: Counter[str] = Counter()
        for client in family.held_out(part):
            for batch in (client.support, client.query):
                counted.update(map(str, batch[1].tolist()))
        assert held[part]["classes"] == dict(counted) and held[part]["clients"] == len(family.held_out(part)) == 3
        assert held[part]["samples"] == counted.total()
    for k in range(4):
        drawn = family.draw(k, 200, np.random.default_rng(0))
        assert set(map(str, drawn.support[1].unique().tolist())) <= set(held[str(k)]["classes"])
        assert held[str(k)]["samples"] == family.samples(k) == sum(held[str(k)]["classes"].values())
    table = difnet("data", "show", "--task", "synthetic", "--agents", 4, *words)[1].splitlines()
    assert table[0].split() == ["agent", "clients", "samples", "classes", "0", "…", "4"] and len(table) == 7


def test_a_run_is_shown_from_what_it_recorded(difnet, tmp_path):
    """The manifest alone is read; no task is made, and no data looked for."""
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_text("")
    (folder / "config.toml").write_text("")
    (folder / "summary.json").write_text("{}")
    assert difnet("data", "show", "one")[0] == 2, "older runs have none"
    a = {"client": "a", "support": 2, "query": 3, "rows": "0"}
    b = {"client": "b", "support": 1, "query": 1, "rows": "1"}
    targets = {"agents": [{"7": 6, "10": 1}, {"7": 5}], "validation": {"10": 2}, "test": {"7": 2}}
    manifest = {"data": "d", "agents": [[a, b], [a]], "validation": [b], "test": [b], "targets": targets}
    (folder / "partition.json").write_text(json.dumps(manifest))
    status, out, err = difnet("data", "show", "one", "-o", "who.png")
    assert status == 0 and err == "wrote who.png\n" and Path("who.png").read_bytes().startswith(b"\x89PNG")
    heading, *table = out.splitlines()
    assert heading.split() == ["agent", "clients", "samples", "classes", "7", "…", "10"]
    told = [" ".join(line.split()) for line in table]
    assert told == ["0 2 7 2 █▂", "1 1 5 1 █·", "validation 1 2 1 ·█", "test 1 2 1 █·"]
    (folder / "partition.json").write_text("{")
    assert difnet("data", "show", "one")[0] == 2
    (folder / "partition.json").write_text('{"agents": 3}')
    status, _, err = difnet("data", "show", "one")
    assert status == 2 and "no manifest" in err and "Traceback" not in err


def test_wrong_words_cost_one_line_and_exit_status_2(difnet, tmp_path):
    (tmp_path / "plain.py").write_text("class F:\n    pass\ndef family(agents, shots, queries):\n    return F()\n")
    for words, said in {
        ("--task", "sinusoit"): "did you mean 'sinusoid'",
        ("one", "--task", "sinusoid"): "give one of them",
        ("--task", "sinusoid", "-o", "who.doc"): ".png",
        ("--task", "sinusoid", "--set", "task.x=1"): "x",
        ("--task", "plain:family"): "no manifest()",
    }.items():
        status, out, err = difnet("data", "show", *words)
        assert (status, out) == (2, "") and said in err and "Traceback" not in err


def test_classes_are_in_the_order_of_their_numbers_and_then_of_their_names():
    held = [AgentData("0", 1, 3, {"10": 1, "9": 1, "b": 1}), AgentData("1", 1, 1, {"a": 1, "-1": 1})]
    assert classes_of(held) == ["-1", "9", "10", "a", "b"]


def test_a_bar_is_as_high_as_its_share_of_the_largest_rounded_up():
    assert bars(AgentData("0", 1, 1, {"0": 800, "1": 400, "2": 101, "3": 100, "4": 1}), list("012345")) == "█▄▂▁▁·"
    assert bars(AgentData("0", 1, 0, {}), ["0"]) == "·"


def test_episodes_have_classes_for_clients_but_no_bars_where_there_are_many():
    def manifest(classes: int) -> dict:
        named = [{"client": f"set/{n:04}", "samples": 20} for n in range(classes)]
        return {"agents": [named[:2], named[2:]], "validation": [], "test": []}

    few, many = agent_data(manifest(5)), agent_data(manifest(101))
    assert few[0].classes == {"set/0000": 20, "set/0001": 20} and few[1].samples == 60
    assert rows(few)[1][0] == ["0", 2, 40, 2, "██···"]
    assert rows(many)[0] == ["agent", "clients", "samples"] and rows(many)[1][1] == ["1", 99, 1980]


@pytest.mark.parametrize("wrong", [{}, {"agents": [[{"client": "a"}]]}, {"agents": [[3]]}, [],
                                   {"agents": [[]], "targets": {"agents": []}}])  # fmt: skip
def test_what_is_no_manifest_is_refused(wrong):
    with pytest.raises(RunFolderError, match="no manifest"):
        agent_data(wrong)


def test_a_picture_has_a_circle_for_every_class_that_somebody_has_and_a_bar_for_everybody():
    pytest.importorskip("matplotlib")
    held = [AgentData("0", 1, 3, {"0": 1, "1": 2}), AgentData("1", 1, 4, {"1": 4}), AgentData("test", 1, 2, {"0": 2})]
    above, below = picture(held, "x").axes
    assert [bar.get_height() for bar in above.patches] == [3, 4, 2]
    circles = {tuple(place): size for drawn in below.collections
               for place, size in zip(drawn.get_offsets().tolist(), drawn.get_sizes(), strict=True)}  # fmt: skip
    assert set(circles) == {(0, 0), (0, 1), (1, 1), (2.6, 0)}
    assert circles[0, 1] == pytest.approx(2 * circles[0, 0]) and circles[1, 1] == pytest.approx(circles[2.6, 0])
    [alone] = picture([AgentData("0", 1, 0, {}, (1.0, 2.0)), AgentData("1", 1, 0, {}, (3.0, 3.0))], "x").axes
    assert [line.get_ydata().tolist() if hasattr(line.get_ydata(), "tolist") else list(line.get_ydata())
            for line in alone.lines] == [[1, 2], [3, 3]]  # fmt: skip


@pytest.mark.slow
def test_two_hundred_agents_fit_into_a_picture_and_every_fourth_is_named():
    pytest.importorskip("matplotlib")
    held = [AgentData(str(k), 1, 2, {str(k % 10): 2}) for k in range(200)] + [AgentData("test", 1, 2, {"0": 2})]
    figure = picture(held, "x")
    assert figure.get_size_inches()[0] <= 17
    names = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert names == [*map(str, range(0, 200, 4)), "test"]
