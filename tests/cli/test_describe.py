"""`difnet data describe`: a schema on stdout, what is to be known of it on stderr, and nothing heavy to wait for."""

import json
import subprocess
import sys
import tomllib

import pytest

from difnet import cli


@pytest.fixture
def difnet(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path / "cache"))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["difnet", "data", "describe", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def owners(place):
    place.mkdir()
    for name, words in {"ash": ("low", "high"), "oak": ("low", "low")}.items():
        rows = [f"{n * n},{'' if n == 3 else n / 4},note {n} of {name},{words[n % 2]}" for n in range(12)]
        (place / f"{name}.csv").write_text("dose,weight,note,risk\n" + "\n".join(rows) + "\n")
    return place


def test_the_schema_is_on_stdout_and_what_was_decided_on_stderr(difnet, tmp_path):
    status, out, err = difnet(owners(tmp_path / "own"), "--target", "risk", "-v")
    assert status == 0
    assert tomllib.loads(out) == {
        "scale": "support", "target": {"name": "risk", "kind": "classification", "classes": ["high", "low"]},
        "columns": {"dose": {"kind": "number"}, "note": {"kind": "ignored"},
                    "weight": {"kind": "number", "gaps": True}},
    }  # fmt: skip
    for said in ("note: column 'note' is ignored: 24 different texts",
                 "note: oak: the target is the same in all 12 rows", "2 clients, 24 rows, 3 inputs, 2 outputs"):
        assert said in err
    table = [line.split() for line in err.splitlines()[-3:]]
    assert table == [["client", "rows", "gaps", "high", "low"], ["ash", "12", "1", "6", "6"],
                     ["oak", "12", "1", "0", "12"]]  # fmt: skip


def test_one_json_document_has_it_all(difnet, tmp_path):
    status, out, err = difnet(owners(tmp_path / "own"), "--target", "weight", "--json")
    told = json.loads(out)
    assert (status, err) == (0, "") and told["schema"]["target"] == {"name": "weight", "kind": "regression"}
    assert [(c["client"], c["rows"]) for c in told["clients"]] == [("ash", 11), ("oak", 11)], "one has no weight"
    assert told["inputs"] == ["dose", "risk=high", "risk=low"]


def test_schemas_of_several_owners_are_merged_and_read_by(difnet, tmp_path):
    own = owners(tmp_path / "own")
    for name in ("ash", "oak"):
        out = difnet(own / "ash.csv", own / "oak.csv", "--target", "risk")[1]
        (tmp_path / f"{name}.toml").write_text(out.replace("high", "top") if name == "oak" else out)
    status, out, _ = difnet("ash.toml", "oak.toml")
    assert status == 0 and tomllib.loads(out)["target"]["classes"] == ["high", "low", "top"]
    (tmp_path / "all.toml").write_text(out)
    status, out, err = difnet(own, "--against", "all.toml")
    assert status == 0 and "ash has no row of 1 of 3 classes: 'top'" in err
    (tmp_path / "all.toml").write_text(out.replace('"high",', ""))
    status, out, err = difnet(own, "--against", "all.toml")
    assert (status, out) == (3, "") and "ash.csv, line 3, column 'risk': is none of the 2 classes" in err


def test_constants_are_written_with_a_warning(difnet, tmp_path):
    status, out, err = difnet(owners(tmp_path / "own"), "--target", "risk", "--constants")
    told = tomllib.loads(out)
    assert status == 0 and told["scale"] == "constants" and "whoever gets the schema knows them" in err
    assert told["columns"]["dose"]["center"] == pytest.approx(sum(n * n for n in range(12)) / 12)


@pytest.mark.parametrize(("words", "status", "said"), [
    ((), 2, "no --target is given"),
    (("--target", "risk", "--kind", "ranking"), 2, "--kind"),
    (("--target", "rsk"), 3, "no column 'rsk'; did you mean 'risk'"),
    (("--target", "risk", "--kind", "regression"), 3, "is text, and regression predicts numbers"),
    (("--target", "risk", "--columns", "a,b"), 3, "4 columns, and 2 names are given"),
    (("--target", "risk", "--against", "none.toml"), 3, "none.toml"),
    (("none.toml", "--target", "risk"), 2, "schemas (.toml) are merged as they are"),
], ids=str)  # fmt: skip
def test_what_cannot_be_is_one_message(difnet, tmp_path, words, status, said):
    ended, out, err = difnet(owners(tmp_path / "own"), *words)
    assert (ended, out) == (status, "") and said in err and "Traceback" not in err


def test_a_table_is_described_without_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFNET_CACHE", str(tmp_path / "cache"))
    program = (f"import sys; sys.argv = ['difnet', 'data', 'describe', {str(owners(tmp_path / 'own'))!r}, '--target', "
               "'risk']\nfrom difnet.cli import main\ntry: main()\nexcept SystemExit as end: code = end.code\n"
               "sys.exit(code or 'torch' in sys.modules)")  # fmt: skip
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0 and "columns.dose" in ended.stdout
