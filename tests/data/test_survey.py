"""The schema that tables suggest: what each column is, what is decided unasked, and which tables have none together."""

import numpy as np
import pytest

from difnet.data.own_tables import constants, read, schema_of
from difnet.data.schema import Target
from difnet.errors import ConfigError
from tests.data.files import refused
from tests.data.test_own_tables import put


def suggested(place, **words):
    return schema_of(place, "y", **words)


def test_each_kind_of_column_is_told_by_its_cells(tmp_path):
    lines = [f"{n},{n / 7:.3f},{n % 2},{'ab'[n % 2]},{'Yes' if n % 3 else 'no'},2026-01-{n + 1:02d},{n + 1}/2/2026,"
             f"person {n},,{'' if n % 5 else n * n},{'high' if n % 2 else 'low'}" for n in range(24)]  # fmt: skip
    put(tmp_path, "count,num,bit,cat,flag,day,us,name,none,few,y\n" + "\n".join(lines))
    schema, notes = suggested(tmp_path)
    kinds = {column.name: column.kind for column in schema.columns}
    assert kinds == {
        "bit": "number", "cat": "category", "count": "ignored", "day": "date", "few": "number", "flag": "flag",
        "name": "ignored", "none": "ignored", "num": "number", "us": "ignored",
    }  # fmt: skip
    assert {column.name for column in schema.columns if column.gaps} == {"few"}
    assert [column.categories for column in schema.columns if column.name == "cat"] == [("a", "b")]
    assert schema.target == Target("y", "classification", ("high", "low"))
    told = "\n".join(notes)
    for said in ("'count' is ignored: it counts the rows", "'name' is ignored: 24 different texts in 24 cells",
                 "'none' is ignored: it holds gaps alone", "'us' is ignored: dates such as 3/4/2026"):  # fmt: skip
        assert said in told


@pytest.mark.parametrize(("cells", "kind", "made"), [
    (["0", "1", "1", "0", "2", "2"], None, ("classification", ("0", "1", "2"))),
    (["0", "1", "1", "0", "2", "2"], "regression", ("regression", ())),
    ([str(n) for n in (10, 9, 10, 9, 11, 11)], None, ("classification", ("9", "10", "11"))),
    (["1.0", "2.0", "1", "2", "1", "2"], None, ("classification", ("1", "2"))),
    ([f"{n}.5" for n in range(6)], None, ("regression", ())),
    ([str(n * 7) for n in range(6)], None, ("regression", ())),
    (["a", "b", "a", "b", "c", "c"], None, ("classification", ("a", "b", "c"))),
], ids=str)  # fmt: skip
def test_a_target_is_for_what_its_cells_suggest_or_as_told(tmp_path, cells, kind, made):
    put(tmp_path, "a,y\n" + "\n".join(f"{n * n},{cell}" for n, cell in enumerate(cells)))
    schema, notes = suggested(tmp_path, kind=kind)
    assert (schema.target.kind, schema.target.classes) == made
    assert "as told" in notes[-1] if kind else "because it holds" in notes[-1]
    assert len(read(tmp_path, schema).targets) == 6


def test_the_schema_does_not_depend_on_the_order_of_files_or_rows(tmp_path):
    first, second = "a,c,y\n1,red,no\n4,blue,yes\n9,red,no\n", "c,y,a\nblue,no,2\ngreen,yes,\ngreen,no,5\n"
    made = []
    for names in (("ash", "oak"), ("oak", "ash")):
        place = tmp_path / "".join(names)
        for name, content in zip(names, (first, second), strict=True):
            put(place, content, f"{name}.csv")
        made.append(suggested(place).schema)
    assert made[0] == made[1] and made[0].inputs == ["a", "a is a gap", "c=blue", "c=green", "c=red"]


PAIRS = {
    "numbers here, text there": ("a,y\n1,no\n2,yes\n", "a,y\nlow,no\nhigh,yes\n", "oak.csv, line 2, column 'a'",
                                 "ash.csv has numbers"),
    "a column is lacking": ("a,b,y\n1,2,no\n", "a,y\n1,no\n", "oak.csv has no column 'b', which"),
    "a column is more": ("a,y\n1,no\n", "a,b,y\n1,2,no\n", "ash.csv has no column 'b', which"),
    "no target": ("a,y\n1,no\n", "a,z\n1,no\n", "oak.csv has no column 'y'"),
    "text among numbers": ("a,y\n1,no\n2,yes\nlost,no\n", "a,y\n3,no\n", "ash.csv, line 4, column 'a'",
                           "text among numbers"),
    "thousands": ('a,y\n"1,000",no\n"2,000",yes\n', "a,y\n3,no\n", "ash.csv, line 2, column 'a'", "thousands"),
    "one class": ("a,y\n1,no\n5,no\n", "a,y\n3,no\n9,no\n", "is the same in all 4 rows"),
    "no target anywhere": ("a,y\n1,\n5,\n", "a,y\n3,\n", "holds gaps alone"),
    "no input": ("y\nno\nyes\n", "y\nno\nyes\n", "no column beside the target"),
    "infinite": ("a,y\n1,no\n-inf,yes\n", "a,y\n3,no\n", "ash.csv, line 3, column 'a'", "infinite"),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_tables_that_do_not_fit_together_have_no_schema(tmp_path, name):
    first, second, *said = PAIRS[name]
    put(tmp_path, first)
    put(tmp_path, second, "oak.csv")
    refused(lambda: suggested(tmp_path), *said)


def test_a_target_of_free_text_or_of_words_for_regression_is_refused(tmp_path):
    put(tmp_path, "a,y\n" + "\n".join(f"{n * n},text {n}" for n in range(150)))
    refused(lambda: suggested(tmp_path), "more than 100 different values", "--kind regression")
    refused(lambda: suggested(tmp_path, kind="regression"), "line 2, column 'y'", "regression predicts numbers")
    with pytest.raises(ConfigError, match="kind is 'ranking'"):
        suggested(tmp_path, kind="ranking")


def test_constants_are_the_mean_and_spread_of_all_rows(tmp_path):
    put(tmp_path, "a,c,y\n1,red,1.5\n,blue,2.5\n4,red,5\n9,blue,7\n")
    table = read(tmp_path, suggested(tmp_path).schema)
    made = constants(table)
    [a] = [column for column in made.columns if column.name == "a"]
    assert (a.center, a.scale) == (pytest.approx(np.mean([1, 4, 9])), pytest.approx(np.std([1, 4, 9])))
    assert made.target.scale == pytest.approx(np.std([1.5, 2.5, 5, 7])) and made.scale == "constants"
    assert [column.center for column in made.columns if column.name == "c"] == [None]
