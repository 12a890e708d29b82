"""In what do two runs differ? In their settings, or in the bits they ended in."""

from collections.abc import Mapping
from typing import Any

from difnet.record.files import read_tensors
from difnet.record.run import Run


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested table as one level of dotted names.

    >>> flatten({"loss": {"after": {"1": 0.5}}, "seed": 0})
    {'loss.after.1': 0.5, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The dotted names whose values differ, with both values; None where one side has none.

    >>> differences({"seed": 0, "task": {"name": "sinusoid"}}, {"seed": 1, "task": {"name": "sinusoid"}})
    {'seed': (0, 1)}
    """
    left, right = flatten(a), flatten(b)
    return {n: (left.get(n), right.get(n)) for n in dict.fromkeys([*left, *right]) if left.get(n) != right.get(n)}


def same_bits(a: Run, b: Run) -> bool | None:
    """Whether two runs ended in the same launch model, bit for bit; None where a folder has none.

    Raises: RunFolderError, if one of them is damaged.
    """
    paths = [run.folder / "launch-model.safetensors" for run in (a, b)]
    if not all(path.is_file() for path in paths):
        return None
    left, right = (read_tensors(path) for path in paths)
    return left.keys() == right.keys() and all(
        x.dtype == right[n].dtype and x.shape == right[n].shape and x.tobytes() == right[n].tobytes()
        for n, x in left.items()
    )
