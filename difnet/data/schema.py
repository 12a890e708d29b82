"""What do the columns of people's own tables mean? A schema says it once for all owners, and holds none of their rows.

As TOML, which is meant to be edited:

    scale = "support"          # numbers are scaled by each task's support rows; or "constants"

    [target]
    name = "ill"
    kind = "classification"    # or "regression"
    classes = ["no", "yes"]

    [columns.age]
    kind = "number"            # or category, flag (yes or no), date, ignored
    unit = "years"
    gaps = true                # cells may be empty: an input says which are

Inputs of a model are in the order of the columns' names, whatever their order in files and schemas.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from difnet.data import meaning
from difnet.errors import ConfigError, did_you_mean

KINDS = ("number", "category", "flag", "date", "ignored")
SCALED = ("number", "flag", "date")  # columns that are one number each
TARGETS = ("regression", "classification")
SCALES = ("support", "constants")
_NUMBER, _WORDS = ((int, float), "a number"), ((tuple,), "a list of words")
WANTED: Mapping[str, tuple[tuple[type, ...], str]] = {
    "gaps": ((bool,), "true or false"), "center": _NUMBER, "scale": _NUMBER, "categories": _WORDS, "classes": _WORDS,
}  # what a field of a column holds, where it is no word


@dataclass(frozen=True)
class Column:
    """One column of the tables."""

    name: str
    kind: str
    categories: tuple[str, ...] = ()  # of a category: each is an input of its own
    unit: str = ""
    gaps: bool = False  # cells may be empty, and an input of its own says so
    center: float | None = None  # what is subtracted and divided by, where scale is "constants"
    scale: float | None = None

    @property
    def inputs(self) -> list[str]:
        """The names of the model's inputs that this column becomes."""
        if self.kind == "ignored":
            return []
        own = [f"{self.name}={word}" for word in self.categories] if self.kind == "category" else [self.name]
        return own + ([f"{self.name} is a gap"] if self.gaps else [])


@dataclass(frozen=True)
class Target:
    """The column that is to be predicted."""

    name: str
    kind: str
    classes: tuple[str, ...] = ()
    unit: str = ""
    center: float | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Schema:
    """All columns, in the order of their names, the target, and how numbers are scaled."""

    columns: tuple[Column, ...]
    target: Target
    scale: str = "support"

    @property
    def used(self) -> list[Column]:
        """The columns that are inputs, in the order of their names."""
        return [column for column in self.columns if column.kind != "ignored"]

    @property
    def inputs(self) -> list[str]:
        """The names of a model's inputs, in order."""
        return [name for column in self.used for name in column.inputs]

    @property
    def outputs(self) -> int:
        """How many numbers a model gives: one for each class, or one."""
        return len(self.target.classes) if self.target.kind == "classification" else 1

    def to_dict(self) -> dict[str, Any]:
        """As plain values, as TOML and a run's configuration hold it."""
        target = _plain(self.target)
        columns = {column.name: _plain(column, "name") for column in self.columns}
        return {"scale": self.scale, "target": target, "columns": columns}


def from_dict(words: Mapping[str, Any], where: str = "the schema") -> Schema:
    """The schema of plain values.

    Args: `where` they stand, for errors.
    Raises: ConfigError, naming what is wrong.
    """
    _known(words, ("scale", "target", "columns"), where)
    if not isinstance(words.get("target"), Mapping) or not isinstance(words.get("columns"), Mapping):
        raise ConfigError(f"{where} lacks [target] or [columns.NAME]; `difnet data describe DATA --target NAME` writes "
                          f"a schema that can be edited")  # fmt: skip
    target = _made(Target, words["target"], f"{where}, [target]")
    columns = [_made(Column, {"name": name, **_table(column, f"{where}, [columns.{name}]")},
                     f"{where}, [columns.{name}]") for name, column in words["columns"].items()]  # fmt: skip
    schema = Schema(tuple(sorted(columns, key=lambda column: column.name)), target, words.get("scale", "support"))
    _check(schema, where)
    return schema


def read(path: Path) -> Schema:
    """The schema in a TOML file.

    Raises: DataError, if it cannot be read; ConfigError, if it is no schema.
    """
    return from_dict(meaning.read(path), str(path))


def to_toml(schema: Schema) -> str:
    """The schema as TOML that can be edited."""
    import tomli_w

    return tomli_w.dumps(schema.to_dict())


def merge(schemas: Mapping[str, Schema]) -> Schema:
    """One schema of those that several owners have made of their own tables: all categories and classes of all.

    Args: `schemas`, by the name of the owner or the file, in any order.
    Raises: ConfigError for what they do not agree about, naming two of them.
    """
    names = sorted(schemas)
    first = schemas[names[0]]
    merged = {column.name: column for column in first.columns}
    target, begun = first.target, names[0]
    for name in names[1:]:
        other = schemas[name]
        _agree(f"scale, {first.scale!r} and {other.scale!r}", first.scale == other.scale, begun, name)
        target = _merged(f"target {target.name!r}", target, other.target, begun, name)
        theirs = {column.name: column for column in other.columns}
        for has, who, more in ((begun, name, merged.keys() - theirs), (name, begun, theirs.keys() - merged)):
            if more:
                raise ConfigError(f"{has} has a column {min(more)!r}, and {who} has none; take it out of the one "
                                  f"schema, or have it added to the other's tables")  # fmt: skip
        merged = {column: _merged(f"column {column!r}", merged[column], theirs[column], begun, name)
                  for column in merged}  # fmt: skip
    schema = Schema(tuple(merged[name] for name in sorted(merged)), target, first.scale)
    _check(schema, "the merged schema")
    return schema


def in_order(words: Sequence[str] | set[str]) -> tuple[str, ...]:
    """Words in the order of the alphabet, numbers in that of their size.

    >>> in_order({"10", "9", "b"}), in_order({"10", "9"})
    (('10', '9', 'b'), ('9', '10'))
    """
    try:
        return tuple(sorted(words, key=lambda word: (float(word), word)))
    except ValueError:
        return tuple(sorted(words))


def _merged(what: str, a: Any, b: Any, first: str, second: str) -> Any:
    """One column or target of two."""
    _agree(f"what is {'predicted' if isinstance(a, Target) else 'meant'}: {a.name!r} and {b.name!r}", a.name == b.name,
           first, second)  # fmt: skip
    _agree(f"{what}, which is of kind {a.kind!r} and {b.kind!r}", a.kind == b.kind, first, second)
    _agree(f"the unit of {what}, {a.unit!r} and {b.unit!r}", not (a.unit and b.unit) or a.unit == b.unit, first, second)
    _agree(f"the constants of {what}: each has those of its own rows, so agree upon one pair, or take them out",
           (a.center, a.scale) == (b.center, b.scale), first, second)  # fmt: skip
    both = replace(a, unit=a.unit or b.unit)
    if isinstance(a, Target):
        return replace(both, classes=_union(a.classes, b.classes))
    return replace(both, categories=_union(a.categories, b.categories), gaps=a.gaps or b.gaps)


def _union(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
    return a if a == b else in_order({*a, *b})


def _agree(what: str, agreed: bool, first: str, second: str) -> None:
    if not agreed:
        raise ConfigError(f"{first} and {second} do not agree about {what}; edit one of the schemas")


def _plain(part: Any, *but: str) -> dict[str, Any]:
    told = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(part).items()}
    return {key: value for key, value in told.items()
            if key not in but and not (value is None or value is False or value in ([], ""))}  # fmt: skip


def _table(words: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(words, Mapping):
        raise ConfigError(f"{where} is {type(words).__name__}; it must be a table with kind = {_either(KINDS)}")
    return words


def _made(made: Any, words: Mapping[str, Any], where: str) -> Any:
    fields = made.__dataclass_fields__
    _known(words, tuple(fields), where)
    listed = {key: tuple(str(word) for word in words[key]) for key in ("categories", "classes")
              if isinstance(words.get(key), list | tuple)}  # fmt: skip
    given = {**words, **listed}
    for key, value in given.items():
        kinds, told = WANTED.get(key, ((str,), "a word"))
        if type(value) not in kinds:
            raise ConfigError(f"{where}: {key} is {value!r}; it must be {told}")
    if lacking := [key for key in ("name", "kind") if not given.get(key)]:
        raise ConfigError(f"{where} lacks {lacking[0]}")
    return made(**given)


def _known(words: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    if strange := [word for word in words if word not in known]:
        raise ConfigError(f"{where}: no word {strange[0]!r}{did_you_mean(strange[0], known)} It may have "
                          f"{', '.join(known)}.")  # fmt: skip


def _check(schema: Schema, where: str) -> None:
    """Raises: ConfigError for a schema that means nothing."""
    target = schema.target
    for what, value, known in (("scale", schema.scale, SCALES), ("target.kind", target.kind, TARGETS),
                               *((f"columns.{c.name}.kind", c.kind, KINDS) for c in schema.columns)):  # fmt: skip
        if value not in known:
            raise ConfigError(f"{where}: {what} is {value!r}; it must be {_either(known)}")
    if target.name in [column.name for column in schema.columns]:
        raise ConfigError(f"{where}: {target.name!r} is the target and a column; a model would be told what it is to "
                          f"predict. Take [columns.{target.name}] out.")  # fmt: skip
    if not schema.used:
        raise ConfigError(f"{where} has no column that is an input; give one another kind than ignored")
    words = {f"columns.{c.name}.categories": c.categories for c in schema.columns if c.kind == "category"}
    words |= {"target.classes": target.classes} if target.kind == "classification" else {}
    for what, values in words.items():
        least = 2 if what == "target.classes" else 1
        if len({*values}) != len(values) or len(values) < least:
            raise ConfigError(f"{where}: {what} has {len(values)} words, {len({*values})} of them different; there "
                              f"must be {least} or more, none twice")  # fmt: skip
    for column in schema.columns:
        _check_constants(column, column.kind in SCALED and schema.scale == "constants", where)
    _check_constants(target, target.kind == "regression" and schema.scale == "constants", where)


def _check_constants(part: Column | Target, needed: bool, where: str) -> None:
    center, scale = part.center, part.scale
    if center is None and scale is None:
        if needed:
            raise ConfigError(f"{where}: scale is \"constants\", and {part.name!r} has none; give it center and scale, "
                              f"or say scale = \"support\"")  # fmt: skip
    elif center is None or scale is None or not math.isfinite(center) or not 0 < scale < math.inf:
        raise ConfigError(f"{where}, {part.name!r}: center is {center} and scale {scale}; both must be finite numbers, "
                          f"and scale above 0")  # fmt: skip


def _either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]])
