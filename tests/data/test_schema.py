"""What columns mean: a schema there and back, what it refuses, and one of several owners'."""

import itertools

import pytest

from difnet.data.schema import Column, Schema, Target, from_dict, in_order, merge, read, to_toml
from difnet.errors import ConfigError, DataError

AGE = Column("age", "number", unit="years", gaps=True)
WARD = Column("ward", "category", ("north", "south"))
ILL = Target("ill", "classification", ("no", "yes"))
SCHEMA = Schema((AGE, Column("name", "ignored"), Column("since", "date"), WARD), ILL)


def test_a_schema_comes_back_from_toml_as_it_was(tmp_path):
    (tmp_path / "schema.toml").write_text(to_toml(SCHEMA))
    assert read(tmp_path / "schema.toml") == SCHEMA == from_dict(SCHEMA.to_dict())
    price = Target("price", "regression", unit="EUR", center=3.0, scale=2.5)
    fixed = Schema((Column("b", "flag", center=0.0, scale=1.0),), price, "constants")
    (tmp_path / "schema.toml").write_text(to_toml(fixed))
    assert read(tmp_path / "schema.toml") == fixed


def test_the_order_of_a_file_is_no_order_of_inputs():
    words = SCHEMA.to_dict()
    turned = {**words, "columns": dict(reversed(words["columns"].items()))}
    assert list(turned["columns"]) != list(words["columns"]) and from_dict(turned) == SCHEMA
    assert SCHEMA.inputs == ["age", "age is a gap", "since", "ward=north", "ward=south"] and SCHEMA.outputs == 2


def changed(**parts):
    words = SCHEMA.to_dict()
    for path, value in parts.items():
        at = words
        *way, last = path.split("__")
        for step in way:
            at = at[step]
        at[last] = value
    return words


@pytest.mark.parametrize(("words", "said"), [
    ({}, r"lacks \[target\] or \[columns.NAME\]; `difnet data describe"),
    (changed(scale="minmax"), "scale is 'minmax'; it must be support or constants"),
    (changed(targets={}), "no word 'targets'; did you mean 'target'"),
    (changed(target__kind="ranking"), "target.kind is 'ranking'"),
    (changed(target__classes=["no"]), "target.classes has 1 words"),
    (changed(target__classes=["no", "no"]), "1 of them different"),
    (changed(target__name="age"), "'age' is the target and a column"),
    (changed(columns__age__kind="float"), "columns.age.kind is 'float'; it must be number, category"),
    (changed(columns__age__knid="number"), r"\[columns.age\]: no word 'knid'; did you mean 'kind'"),
    (changed(columns__age={}), "lacks kind"),
    (changed(columns__age=3), "must be a table"),
    (changed(columns__age__gaps=1), "gaps is 1; it must be true or false"),
    (changed(columns__age__center="x"), "center is 'x'; it must be a number"),
    (changed(columns__age__center=1.0), "center is 1.0 and scale None; both"),
    (changed(columns__age__center=1.0, columns__age__scale=0.0), "scale above 0"),
    (changed(columns__ward__categories="north"), "must be a list of words"),
    (changed(columns__ward__categories=[]), "categories has 0 words"),
    (changed(scale="constants"), "scale is \"constants\", and 'age' has none"),
    (changed(columns={"x": {"kind": "ignored"}}), "no column that is an input"),
], ids=str)  # fmt: skip
def test_what_means_nothing_is_refused(words, said):
    with pytest.raises(ConfigError, match=said):
        from_dict(words)


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    for content in (b"scale = ", b"scale = '\x80'"):
        (tmp_path / "s.toml").write_bytes(content)
        with pytest.raises(DataError, match=r"s\.toml"):
            read(tmp_path / "s.toml")
    with pytest.raises(DataError, match="No such file"):
        read(tmp_path / "none.toml")


# Several owners


def of(*columns, target=ILL, scale="support"):
    return Schema(tuple(sorted(columns, key=lambda c: c.name)), target, scale)


def test_owners_schemas_merge_to_the_union_in_whatever_order_they_come():
    a = of(Column("age", "number"), Column("ward", "category", ("south", "north")))
    b = of(Column("age", "number", gaps=True), Column("ward", "category", ("east",)),
           target=Target("ill", "classification", ("maybe", "no")))  # fmt: skip
    c = of(Column("age", "number", unit="years"), Column("ward", "category", ("north",)))
    merged = {merge(dict(order)) for order in itertools.permutations({"a": a, "b": b, "c": c}.items())}
    assert merged == {of(AGE, Column("ward", "category", ("east", "north", "south")),
                         target=Target("ill", "classification", ("maybe", "no", "yes")))}  # fmt: skip
    assert merge({"a": a}) == a and merge({"a": a, "b": a}) == a


@pytest.mark.parametrize(("other", "said"), [
    (of(Column("age", "category", ("1",)), WARD), "a.toml and b.toml do not agree about column 'age', which is of"),
    (of(AGE), "a.toml has a column 'ward', and b.toml has none"),
    (of(AGE, WARD, Column("x", "flag")), "b.toml has a column 'x', and a.toml has none"),
    (of(Column("age", "number", unit="months"), WARD), "the unit of column 'age', 'years' and 'months'"),
    (of(Column("age", "number", center=1.0, scale=2.0), WARD), "the constants of column 'age'"),
    (of(AGE, WARD, target=Target("sick", "classification", ("no", "yes"))), "what is predicted: 'ill' and 'sick'"),
    (of(AGE, WARD, target=Target("ill", "regression")), "target 'ill', which is of kind"),
    (of(AGE, WARD, scale="constants"), "scale, 'support' and 'constants'"),
], ids=str)  # fmt: skip
def test_what_owners_do_not_agree_about_is_refused_with_their_names(other, said):
    for order in (("a.toml", "b.toml"), ("b.toml", "a.toml")):
        pair = {"a.toml": of(AGE, WARD), "b.toml": other}
        with pytest.raises(ConfigError, match=said):
            merge({name: pair[name] for name in order})


def test_numbers_are_in_the_order_of_their_size():
    assert in_order({"10", "9", "-1"}) == ("-1", "9", "10") and in_order({"b", "10", "9"}) == ("10", "9", "b")
