"""Which file or plug-in bears this name?

Plug-ins are modules of `difnet.algorithms`, `difnet.tasks`, `difnet.models` and `difnet.places`: the file `dif_maml.py`
is called `dif-maml` and holds a factory `dif_maml`; a file may end in an underscore (`table_.py`), where the package
has something else of its name. Other packages add theirs through entry points of the same group ("difnet.tasks"), and
`module:factory` names one directly. Data files (`topologies/`, `launch/`) are found by stem.
"""

import importlib
import importlib.metadata
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difnet.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

_PACKAGE = Path(__file__).parent


def names(group: str) -> list[str]:
    """The names of all plug-ins in a group: "algorithms", "tasks", "models" or "places".

    >>> "dif-maml" in names("algorithms")
    True
    """
    return sorted({*_files(group), *foreign(group).names})


def _files(group: str) -> dict[str, str]:
    """The plug-ins of our own: name -> module."""
    found = pkgutil.iter_modules(importlib.import_module(f"difnet.{group}").__path__)
    return {m.name.rstrip("_").replace("_", "-"): m.name for m in found if not m.name.startswith("_")}


@cache
def foreign(group: str) -> importlib.metadata.EntryPoints:
    """What other packages add to a group; looked up once, since all installed packages are read for it."""
    return importlib.metadata.entry_points(group=f"difnet.{group}")


def load(group: str, name: str) -> Callable[..., Any]:
    """The factory behind a plug-in's name or behind "module:factory".

    Raises: ConfigError, if there is none; it names what there is.
    """
    if ":" in name:
        return _load_foreign(group, name)
    for entry in foreign(group).select(name=name):
        return entry.load()
    if name not in (known := names(group)):
        raise ConfigError(
            f"no {group.rstrip('s')} called {name!r}{did_you_mean(name, known) or '.'} "
            f"Known: {', '.join(known)}; your own is given as module:factory."
        )
    module = _files(group)[name]
    return getattr(importlib.import_module(f"difnet.{group}.{module}"), module.rstrip("_"))


def taken(group: str, name: str, words: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the words that the signature of a plug-in's factory names.

    >>> taken("models", "mlp", {"inputs": 784, "vocabulary": 80})
    {'inputs': 784}
    """
    known = inspect.signature(load(group, name)).parameters
    return {word: value for word, value in words.items() if word in known}


def make(group: str, name: str, options: Mapping[str, Any], *args: Any, **common: Any) -> Any:
    """What a plug-in's factory makes.

    Raises: ConfigError, if there is none, or it refuses its options.
    """
    factory = load(group, name)
    try:
        return factory(*args, **common, **options)
    except TypeError as error:
        raise ConfigError(f"{group.rstrip('s')} {name!r} does not take these options: {error}") from error


def model(name: str, options: Mapping[str, Any]) -> "nn.Module":
    """A network by name, initialised from torch's global generator.

    Raises: ConfigError, if its factory is unknown, refuses its options, or makes something else.
    """
    from torch import nn

    module = make("models", name, options)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"model {name!r} returned a {type(module).__name__}; it must return a torch.nn.Module")
    return module


def _load_foreign(group: str, name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # a file beside the user, as `python -m` would find it
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"cannot import {module_name!r} for {group.rstrip('s')} {name!r}: {error}. "
            f"Looked on the Python path and in {Path.cwd()}."
        ) from error
    if not callable(factory := getattr(module, attribute, None)):
        known = [n for n in vars(module) if not n.startswith("_")]
        raise ConfigError(f"{module_name} has no factory {attribute!r}{did_you_mean(attribute, known)}")
    return factory


def folders(kind: str) -> list[Path]:
    """Where data files of a kind ("topologies", "launch") lie, in the order they are searched."""
    candidates = [Path.cwd() / kind, _PACKAGE / f"_{kind}", _PACKAGE.parent / kind]
    return list(dict.fromkeys(p for p in candidates if p.is_dir()))


def entries(kind: str) -> Iterator[Path]:
    """Every named data file of a kind; a name found earlier hides the same name found later."""
    seen: set[str] = set()
    for folder in folders(kind):
        for path in sorted(folder.glob("*.toml")):
            if path.stem not in seen:
                seen.add(path.stem)
                yield path


def find(kind: str, name: str) -> Path | None:
    """The data file called `name`, or None.

    >>> find("topologies", "ring40").name
    'ring40.toml'
    """
    return next((path for path in entries(kind) if path.stem == name), None)
