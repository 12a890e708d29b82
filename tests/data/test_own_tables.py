"""Tables as people have them: read as they are meant, or refused by file, line and column with nothing kept."""

import gzip
import os
import subprocess
import sys
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest

from difnet.data.own_tables import read, schema_of
from difnet.data.schema import Column, Schema, Target
from difnet.data.table_files import client_name, find, open_table
from difnet.errors import DataError, EnvironmentLacks
from difnet.system.folders import cache_folder
from difnet.system.progress import progress_to
from tests.data.files import entries, refused

arrow = pytest.importorskip("pyarrow")
NAN = float("nan")
PLAIN = Schema((Column("a", "number"), Column("b", "number")), Target("y", "classification", ("no", "yes")))
ROWS = "a,b,y\n1,2.5,no\n3,-4e1,yes\n"


def put(place: Path, content: str | bytes, name: str = "ash.csv") -> Path:
    path = place / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(table) -> list[list[float]]:
    return np.asarray(table.rows).round(4).tolist()


def same(a, b) -> None:
    np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-6)


# Files as people have them


@pytest.mark.parametrize(("content", "name"), [
    (ROWS, "ash.csv"),
    (ROWS.replace(",", "\t"), "ash.tsv"),
    (ROWS.replace(",", ";"), "ash.csv"),
    (ROWS.replace(",", "|"), "ash.txt"),
    (ROWS.replace(",", ";").replace(".", ","), "ash.csv"),
    (ROWS.replace("\n", "\r\n"), "ash.csv"),
    (ROWS.rstrip(), "ash.csv"),
    (ROWS + "\n\n\n", "ash.csv"),
    (ROWS + ",,\n,,\n", "ash.csv"),
    (ROWS.replace("3,-4", "\n3,-4"), "ash.csv"),
    (ROWS.replace("a,b,y", ' a ,"b", y'), "ash.csv"),
    ('a,b,y\n"1"," 2.5 ",no\n3,-4e1,"yes"\n', "ash.csv"),
    (b"\xef\xbb\xbf" + ROWS.encode(), "ash.csv"),
    (ROWS.encode("utf-16"), "ash.csv"),
    (b"\xfe\xff" + ROWS.encode("utf-16-be"), "ash.csv"),
    (gzip.compress(ROWS.encode()), "ash.csv.gz"),
    ("y,b,other,a\nno,2.5,z,1\nyes,-4e1,,+3\n", "ash.CSV"),
], ids=["csv", "tsv", "semicolons", "bars", "decimal commas", "windows", "no last end", "blank lines", "empty cells",
        "a line between", "spaces in the head", "quotes", "BOM", "UTF-16", "UTF-16 BE", "gz", "otherwise"])
def test_a_table_is_read_as_it_is_meant(tmp_path, content, name):
    put(tmp_path, content, name)
    table = read(tmp_path, PLAIN)
    assert values(table) == [[1.0, 2.5], [3.0, -40.0]] and np.asarray(table.targets).tolist() == [0.0, 1.0]
    assert [*table.clients] == ["ash"] and table.rows.dtype == np.float32 and not table.rows.flags.writeable


@pytest.mark.parametrize("gap", ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "?", "-", "  "])
def test_a_gap_is_a_gap_however_it_is_written(tmp_path, gap):
    put(tmp_path, f"a,b,y\n1,{gap},no\n2,5,yes\n")
    table = read(tmp_path, PLAIN)
    same(table.rows, [[1, NAN], [2, 5]])
    assert table.clients["ash"].gaps == {"b": 1}


def test_a_word_that_is_a_category_is_no_gap_there(tmp_path):
    put(tmp_path, "a,land,y\n1,NA,no\n2,DE,yes\n3,,no\n")
    schema = Schema((Column("land", "category", ("DE", "NA")),), PLAIN.target)
    same(read(tmp_path, schema).rows, [[1], [0], [NAN]])


def test_categories_flags_and_dates_are_numbers(tmp_path):
    put(tmp_path, "c,f,d,y\nred,Yes,2026-11-28,no\nblue,f,2026-11-28 18:00,yes\n ,?,28.11.2026,no\n"
                  "red,0,1969/12/31,no\n")
    schema = Schema((Column("c", "category", ("blue", "red")), Column("d", "date"), Column("f", "flag")), PLAIN.target)
    day = (date(2026, 11, 28) - date(1970, 1, 1)).days
    table = read(tmp_path, schema)
    same(table.rows, [[1, day, 1], [0, day + 0.75, 0], [NAN, day, NAN], [1, -1, 0]])


def test_zones_of_times_are_turned_into_one(tmp_path):
    put(tmp_path, "d,y\n1970-01-02T00:00:00Z,no\n1970-01-02T12:00:00+12:00,yes\n")
    same(read(tmp_path, Schema((Column("d", "date"),), PLAIN.target)).rows, [[1], [1]])


def test_a_quoted_cell_may_hold_separators_quotes_and_ends_of_lines(tmp_path):
    put(tmp_path, 'a,note,y\n1,"x, ""y""\nz",no\n"x",k,yes\n')
    schema = Schema((Column("a", "number"),), PLAIN.target)
    refused(lambda: read(tmp_path, schema), "ash.csv, line 4, column 'a'", "is text where a number should be")


def test_a_table_without_names_is_given_some_or_told_them(tmp_path):
    path = put(tmp_path, "1,2.5,no\n3,-4e1,yes\n")
    assert open_table(path).names == ["x1", "x2", "x3"] and open_table(path).made_up
    assert values(read(tmp_path, PLAIN, columns=["a", "b", "y"])) == [[1.0, 2.5], [3.0, -40.0]]
    put(tmp_path, ROWS)
    assert values(read(tmp_path, PLAIN, columns=["a", "b", "y"])) == [[1.0, 2.5], [3.0, -40.0]]


def test_names_that_are_numbers_are_names_where_a_word_stands_above_numbers(tmp_path):
    assert open_table(put(tmp_path, "id,2019,2020\n1,5,6\n2,7,8\n")).names == ["id", "2019", "2020"]
    assert open_table(put(tmp_path, ",a,y\n0,1,no\n")).names == ["x1", "a", "y"], "an index that pandas wrote"


def test_parquet_holds_the_same_as_text(tmp_path):
    from pyarrow import parquet

    columns = {
        "a": arrow.array([1, None, 3], arrow.int32()), "b": arrow.array([2.5, NAN, 1e3]),
        "c": arrow.array(["red", "", "blue"]).dictionary_encode(), "d": arrow.array([date(1970, 1, 2), None, None]),
        "e": arrow.array([datetime(1970, 1, 2, 12), None, None], arrow.timestamp("ns")),
        "f": arrow.array([True, False, None]), "y": arrow.array([0, 1, 1], arrow.int64()),
    }  # fmt: skip
    parquet.write_table(arrow.table(columns), tmp_path / "ash.parquet")
    schema, _ = schema_of(tmp_path, "y", kind="classification")
    kinds = {column.name: column.kind for column in schema.columns}
    assert kinds == {"a": "number", "b": "number", "c": "ignored", "d": "date", "e": "date", "f": "flag"}
    colour = Column("c", "category", ("red", "blue"))
    schema = Schema(tuple(colour if c.name == "c" else c for c in schema.columns), schema.target)
    table = read(tmp_path, schema)
    same(table.rows, [[1, 2.5, 0, 1, 1.5, 1], [NAN, NAN, NAN, NAN, NAN, 0], [3, 1000, 1, NAN, NAN, NAN]])
    assert np.asarray(table.targets).tolist() == [0, 1, 1] and schema.target.classes == ("0", "1")


def test_the_rows_of_clients_that_lie_mixed_are_found_in_the_order_of_the_file(tmp_path):
    lines = [f"{n},{n % 3},{'oak' if n % 2 else 'ash'},no" for n in range(9)]
    put(tmp_path, "a,b,who,y\n" + "\n".join(lines))
    table = read(tmp_path, PLAIN, client="who")
    assert [*table.clients] == ["ash", "oak"]
    assert table.rows[table.rows_of("ash"), 0].tolist() == [0, 2, 4, 6, 8]
    assert table.rows[table.rows_of("oak"), 0].tolist() == [1, 3, 5, 7]


def test_a_folders_tables_are_clients_and_what_lies_beside_is_named(tmp_path):
    for name in ("oak.csv", "ash.csv.gz", ".hidden.csv", "README.md"):
        put(tmp_path, gzip.compress(ROWS.encode()) if name.endswith("gz") else ROWS, name)
    (tmp_path / "below").mkdir()
    assert [client_name(path) for path in find(tmp_path).files] == ["ash", "oak"]
    table = read(tmp_path, PLAIN)
    assert table.notes == ["README.md beside the tables is left out", "below beside the tables is left out"]
    assert [table.rows_of(name).tolist() for name in table.clients] == [[0, 1], [2, 3]]


def test_what_was_read_is_kept_until_a_file_or_the_schema_changes(tmp_path, monkeypatch):
    path = put(tmp_path, ROWS)
    first = read(tmp_path, PLAIN)
    monkeypatch.setattr("difnet.data.table_files.TextFile.batches", lambda *_: pytest.fail("read again"))
    assert read(tmp_path, PLAIN).digest == first.digest
    monkeypatch.undo()
    path.write_text(ROWS.replace("3,", "7,"))
    os.utime(path, (1, 1))
    assert values(read(tmp_path, PLAIN))[1][0] == 7.0
    other = Schema((Column("a", "number"),), PLAIN.target)
    assert read(tmp_path, other).rows.shape == (2, 1)


def test_what_is_kept_of_somebodys_rows_is_for_that_user_alone(tmp_path):
    put(tmp_path, ROWS)
    before = entries()
    read(tmp_path, schema_of(tmp_path, "y").schema)
    folders = [cache_folder().parent / "data" / name for name in entries() - before]
    assert len(folders) == 2 and all(folder.stat().st_mode & 0o077 == 0 for folder in folders)


@pytest.mark.slow
def test_a_table_four_times_as_long_takes_hardly_more_memory(tmp_path):
    """Read in processes of their own: 20 and 80 MB of text. What is read ahead is all that differs."""
    program = ("import sys; from difnet.data.own_tables import read, schema_of\n"
               "read(sys.argv[1], schema_of(sys.argv[1], 'y').schema)\n"
               "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])")  # fmt: skip
    peaks = []
    for times in (2, 8):
        rows = "1.2345,-2.5e3,north,no\n7,0.001,south,yes\n" * 250_000 * times
        path = put(tmp_path / str(times), "a,b,c,y\n" + rows)
        done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=200)
        peaks.append(int(done.stdout) // 1000)
    assert peaks[1] - peaks[0] < 50, peaks


def test_progress_is_told_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("difnet.data.table_files.PIECE", 2**14)
    put(tmp_path, "a,b,y\n" + "1,2,no\n" * 300_000)
    heard = []
    with progress_to(lambda what, done, whole: heard.append((what, done, whole))):
        read(tmp_path, PLAIN)
    whole = 6 + 7 * 300_000
    assert heard[-1] == ("reading ash.csv", whole, whole) and len({done for _, done, _ in heard}) > 2


def test_without_pyarrow_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    put(tmp_path, ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EnvironmentLacks, match=r"needs pyarrow; install it with: pip install 'difnet\[tables\]'"):
        read(tmp_path, Schema((Column("b", "number"),), PLAIN.target))


# Broken ones

ALONE = {  # one file -> what is said of it
    "empty": ("", "ash.csv is empty"),
    "blank": (" \n \n", "ash.csv is empty"),
    "an empty first line": ("\na,b,y\n1,2,no\n", "line 1 is empty"),
    "names alone": ("a,b,y\n", "has the names of 3 columns and no row"),
    "names and blank lines": ("a,b,y\n\n\n", "has the names of 3 columns and no row"),
    "binary": (b"\x7fELF\x02\x01\x00\x00" * 50, "line 1", "binary"),
    "binary further on": (b"a,b,y\n1,2,no\n\x00\x01,2,no\n", "line 3", "zero byte"),
    "latin-1": ("a,b,y\n1,2,no\nä,3,no\n".encode("latin-1"), "line 3", "no text in UTF-8", "iconv -f WINDOWS-1252"),
    "latin-1 far behind": (("a,b,y\n" + "1,2,no\n" * 90_000 + "1,2,ö\n").encode("latin-1"), "line 90002", "no text in"),
    "a name twice": ("a,a,y\n1,2,no\n", "line 1", "2 columns are called 'a'"),
    "a short line": ("a,b,y\n1,2,no\n3,4\n", "line 3: 2 columns; the first line has 3"),
    "a long line": ("a,b,y\n1,2,no\n\n3,4,yes,5\n", "line 4: 4 columns; the first line has 3"),
    "a short line far behind": ("a,b,y\n" + "1,2,no\n" * 90_000 + "3\n", "line 90002: 1 columns"),
    "an open quote": ('a,b,y\n1,2,no\n3,4,"yes\n5,6,no\n', "quotation mark is opened and not closed"),
    "text in a column of numbers": ("a,b,y\n1,2,no\nmany,4,yes\n", "line 3, column 'a'", "where a number should be"),
    "infinite": ("a,b,y\n1,inf,no\n", "line 2, column 'b'", "infinite, or too large"),
    "too large": ("a,b,y\n1,1e300,no\n", "line 2, column 'b'", "infinite, or too large"),
    "thousands": ('a,b,y\n"1,234",2,no\n', "line 2, column 'a'", "thousands"),
    "thousands or decimals": ("a;b;y\n1,234;2;no\n5,678;2;no\n", "may be decimal commas or thousands"),
    "German thousands": ("a;b;y\n1,5;2;no\n1.234,5;2;no\n", "line 3, column 'a'", "thousands"),
    "a point among commas": ("a;b;y\n1,5;2;no\n2.5;2;no\n", "line 3, column 'a'", "by the ',' of this file"),
    "a comma among points": ("a;b;y\n" + "1.5;2;no\n" * 300 + "2,5;2;no\n", "line 302, column 'a'", "by the '.' of"),
    "no such column": ("a,c,y\n1,2,no\n", "has no column 'b', which the schema has", "It has a, c, y"),
    "a column misspelt": ("a,B,y\n1,2,no\n", "has no column 'b'"),
    "no target": ("a,b,z\n1,2,no\n", "has no column 'y'"),
    "no names": ("1,2,no\n3,4,yes\n", "has no column 'a'", "its first line holds no names"),
    "an unknown class": ("a,b,y\n1,2,no\n1,2,perhaps\n", "line 3, column 'y'", "none of the 2 classes of the schema"),
    "no row with a target": ("a,b,y\n1,2,\n1,2,?\n", "none of its 2 rows has a target 'y'"),
    "a column of gaps": ("a,b,y\n1,,no\n1,NA,yes\n", "column 'b'", "gaps alone", "gaps = true"),
    "a web page": ("<html><body>moved</body></html>\n", "has no column 'a'"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_a_broken_table_is_refused_by_its_place_and_nothing_is_kept(tmp_path, name):
    content, *said = ALONE[name]
    put(tmp_path, content)
    refused(lambda: read(tmp_path, PLAIN), tmp_path / "ash.csv", *said)


def test_no_error_holds_what_stands_in_a_cell(tmp_path):
    """They travel to whoever started the network."""
    for rows in ("1,2,no\nSECRET,4,yes", "1,2,SECRET", "1,2,no,SECRET", "1,2\n\"SECRET", "1,2,no\nSECRET"):
        put(tmp_path, f"a,b,y\n{rows}\n")
        with pytest.raises(DataError) as error:
            read(tmp_path, PLAIN)
        assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(("kind", "cell", "said"), [
    ("category", "green", "none of the 2 categories"), ("flag", "perhaps", "neither yes nor no"),
    ("date", "2026-13-01", "is no date"), ("date", "3/4/2026", "is no date"), ("date", "20454", "is no date"),
])  # fmt: skip
def test_a_cell_that_is_not_what_its_column_holds_is_refused_by_line(tmp_path, kind, cell, said):
    good = {"category": "red", "flag": "yes", "date": "2026-11-28"}[kind]
    put(tmp_path, f"c,y\n{good},no\n{good},no\n{cell},yes\n")
    schema = Schema((Column("c", kind, ("red", "blue") if kind == "category" else ()),), PLAIN.target)
    refused(lambda: read(tmp_path, schema), "ash.csv, line 4, column 'c'", said)


def test_damaged_packed_and_parquet_files_are_refused(tmp_path):
    from pyarrow import parquet

    packed = gzip.compress(ROWS.encode() * 50)
    path = put(tmp_path / "gz", packed[: len(packed) // 2], "ash.csv.gz")
    refused(lambda: read(path.parent, PLAIN), path, "damaged or cut off")
    path = put(tmp_path / "no-gz", ROWS, "ash.csv.gz")
    refused(lambda: read(path.parent, PLAIN), path, "damaged or cut off")
    path = put(tmp_path / "pq", b"PAR1 and nothing", "ash.parquet")
    refused(lambda: read(path.parent, PLAIN), path, "cannot be read")
    parquet.write_table(arrow.table({"a": [[1], [2]], "b": [1, 2], "y": ["no", "yes"]}), path)
    refused(lambda: read(path.parent, PLAIN), path, "column 'a': holds list", "no numbers, texts or dates")
    parquet.write_table(arrow.table({"a": ["x", "1"], "b": [1, 2], "y": ["no", "yes"]}), path)
    refused(lambda: read(path.parent, PLAIN), path, "row 1, column 'a'", "text where a number should be")
    parquet.write_table(arrow.table({"a": [1], "b": [1], "y": ["no"]}).slice(0, 0), path)
    refused(lambda: read(path.parent, PLAIN), path, "no row")


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = put(tmp_path, ROWS)
    path.chmod(0)
    refused(lambda: read(tmp_path, PLAIN), path, "cannot be read", "Permission denied")


def test_folders_without_tables_and_paths_to_nowhere_are_refused(tmp_path):
    refused(lambda: read(tmp_path, PLAIN), "holds no table", "0 other entries")
    put(tmp_path, "x", "notes.md")
    refused(lambda: read(tmp_path, PLAIN), "holds no table", "1 other entries")
    refused(lambda: read(tmp_path / "notes.md", PLAIN), "is no table by its name")
    with pytest.raises(EnvironmentLacks, match="there is no"):
        read(tmp_path / "nowhere", PLAIN)
    put(tmp_path, ROWS, "ash.csv")
    put(tmp_path, ROWS, "ash.tsv")
    refused(lambda: read(tmp_path, PLAIN), "ash.csv", "ash.tsv", "both of client 'ash'")


def test_a_row_of_nobody_is_refused(tmp_path):
    put(tmp_path, "a,b,y,who\n1,2,no,ash\n1,2,no,\n")
    refused(lambda: read(tmp_path, PLAIN, client="who"), "line 3, column 'who'", "nobody's")
    refused(lambda: read(tmp_path, PLAIN, client="owner"), "has no column 'owner'")


def test_a_broken_table_among_good_ones_leaves_nothing_behind(tmp_path):
    put(tmp_path, ROWS * 1)
    put(tmp_path, "a,b,y\n1,2,no\nx,4,yes\n", "oak.csv")
    before = entries()
    refused(lambda: read(tmp_path, PLAIN), "oak.csv, line 3")
    assert entries() == before


def test_numbers_that_keep_few_digits_are_told(tmp_path):
    put(tmp_path, "a,b,y\n1700000000,1,no\n1700000900,2,yes\n")
    assert any("ash: the values of 'a' differ by less" in note for note in read(tmp_path, PLAIN).notes)
    put(tmp_path, "a,b,y\n17000,1,no\n17009,2,yes\n")
    assert read(tmp_path, PLAIN).notes == []
