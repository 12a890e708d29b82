"""Every data set in miniature, made up and written in its owner's file format, so that every task family can be had.

All samples differ. They lie in a folder of their own, and so does what is kept of them, until the tests are over.
"""

import atexit
import csv
import gzip
import inspect
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from difnet import catalog

LETTERS = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJ"
OPTIONS: dict[str, dict[str, Any]] = {
    "omniglot": {"training": 12, "validation": 6},  # of 24 characters
    "femnist": {"support": 0.5},
    "digits": {"samples": 110},
    "shakespeare": {"least": 20},  # roles are short here
}
SMALL: dict[str, dict[str, Any]] = {  # the same layers, fewer of each: what is tested is how they fit
    "conv4": {"filters": 4}, "femnist-cnn": {"hidden": 16, "filters": (4, 8)}, "char-lstm": {"hidden": 8},
    "word-lstm": {"hidden": 8},
}  # fmt: skip


@cache
def home() -> Path:
    """The folder of all sets, as --data-dir takes it."""
    folder = Path(tempfile.mkdtemp(prefix="difnet-miniature-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    rng = np.random.default_rng(0)
    for write in (_mnist, _omniglot, _miniimagenet, _femnist, _shakespeare, _sent140, _movielens, _landmine):
        place = folder / write.__name__.strip("_").replace("movielens", "movielens-small")
        place.mkdir()
        write(place, rng)
    return folder


def options_of(name: str) -> dict[str, Any]:
    """What a family must be told to read these data sets."""
    return OWN[name]() if name in OWN else OPTIONS.get(name, {})


def _tables() -> dict[str, Any]:
    """Four owners with a table each: numbers, a category, dates, gaps, two classes."""
    place = home() / "own"
    if not place.is_dir():
        place.mkdir()
        rng = np.random.default_rng(1)
        for owner in ("ash", "birch", "cedar", "date"):
            rows = [(f"{rng.normal():.4f}", rng.choice(["x", "y", ""]), f"2026-0{rng.integers(1, 10)}-11",
                     rng.choice(["no", "yes"]), f"{rng.normal(5):.3f}") for _ in range(60)]  # fmt: skip
            _csv(place / f"{owner}.csv", ("dose", "ward", "since", "ill", "weight"), rows)
    return {"data": str(place), "target": "ill"}


def _pictures() -> dict[str, Any]:
    """Four owners with twelve grey pictures of each of three classes."""
    place = home() / "own-pictures"
    if not place.is_dir():
        rng = np.random.default_rng(2)
        for owner in ("ash", "birch", "cedar", "date"):
            for word in ("bolt", "gear", "nut"):
                (place / owner / word).mkdir(parents=True)
                for n in range(12):
                    Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(place / owner / word / f"{n}.png")
    return {"data": str(place), "size": 16}


def _arrays() -> dict[str, Any]:
    """Four owners with forty samples of two numbers."""
    place = home() / "own-arrays"
    if not place.is_dir():
        rng = np.random.default_rng(3)
        for owner in ("ash", "birch", "cedar", "date"):
            (place / owner).mkdir(parents=True)
            np.save(place / owner / "x.npy", rng.normal(size=(40, 2)).astype(np.float32))
            np.save(place / owner / "y.npy", rng.integers(0, 3, 40))
    return {"data": str(place)}


def _classes() -> dict[str, Any]:
    """Thirty classes of twenty samples of two numbers."""
    place = home() / "own-classes"
    if not place.is_dir():
        place.mkdir()
        np.save(place / "x.npy", np.random.default_rng(4).normal(size=(600, 2)).astype(np.float32))
        np.save(place / "y.npy", np.arange(600) % 30)
    return {"data": str(place), "ways": 3}


OWN = {"table": _tables, "images": _pictures, "arrays": _arrays, "episodes": _classes}  # read with --data


@contextmanager
def kept_apart() -> Iterator[None]:
    """Within the block, what is parsed is kept beside the sets, and not in the user's cache."""
    before = os.environ.get("DIFNET_CACHE")
    os.environ["DIFNET_CACHE"] = str(home() / "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ["DIFNET_CACHE"]
        else:
            os.environ["DIFNET_CACHE"] = before


def family(name: str, *, agents: int, shots: int, queries: int, **options: Any) -> Any:
    """The task family of that name; one that reads files reads the miniatures."""
    factory = catalog.load("tasks", name)
    place = {"data_dir": str(home())} if "data_dir" in inspect.signature(factory).parameters else {}
    with kept_apart():
        return factory(agents=agents, shots=shots, queries=queries, **place, **{**options, **options_of(name)})


def model(made: Any) -> Any:
    """A small model of the kind that a family names, as its samples need it."""
    factory = catalog.load("models", made.default_model)
    fitting = {n: v for n, v in getattr(made, "model_words", {}).items() if n in inspect.signature(factory).parameters}
    return factory(**fitting, **SMALL.get(made.default_model, {}))


def _mnist(place: Path, rng: np.random.Generator) -> None:
    writers, each = 60, 25
    n = writers * each
    digits, who = np.arange(n) % 10, np.arange(n) // each
    table = np.zeros((n, 8), ">i4")
    table[:, 0], table[:, 2] = digits, 2000 + who
    for stem, labels in (("train", "qmnist-train"), ("t10k", "qmnist-test")):
        _idx(place / f"{stem}-images-idx3-ubyte.gz", 8, rng.integers(0, 256, (n, 28, 28)).astype("u1"))
        _idx(place / f"{stem}-labels-idx1-ubyte.gz", 8, digits.astype("u1"))
        _idx(place / f"{labels}-labels-idx2-int.gz", 12, table)


def _idx(path: Path, kind: int, array: np.ndarray) -> None:
    head = bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.tobytes(), compresslevel=1))


def _omniglot(place: Path, rng: np.random.Generator) -> None:
    for name, alphabet in (("images_background", "Here"), ("images_evaluation", "There")):
        with zipfile.ZipFile(place / f"{name}.zip", "w") as archive:
            for c in range(12):
                for d in range(20):
                    drawing = _encoded(rng.integers(0, 256, (30, 30)).astype("u1"), "PNG")
                    archive.writestr(f"{name}/{alphabet}/character{c:02d}/{c:04d}_{d:02d}.png", drawing)


def _miniimagenet(place: Path, rng: np.random.Generator) -> None:
    with zipfile.ZipFile(place / "images.zip", "w") as archive:
        for n, part in enumerate(("train", "val", "test")):
            rows = [(f"n{n}{c:07d}{i:08d}.jpg", f"n{n}{c:07d}") for c in range(6) for i in range(20)]
            for name, _ in rows:
                archive.writestr(f"images/{name}", _encoded(rng.integers(0, 256, (84, 84, 3)).astype("u1"), "JPEG"))
            _csv(place / f"{part}.csv", ("filename", "label"), rows)


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _leaf(place: Path, samples: dict[str, tuple[list[Any], list[Any]]]) -> None:
    document = {"users": [*samples], "num_samples": [len(y) for _, y in samples.values()],
                "user_data": {user: {"x": x, "y": y} for user, (x, y) in samples.items()}}  # fmt: skip
    (place / "all_data_0.json").write_text(json.dumps(document))


def _femnist(place: Path, rng: np.random.Generator) -> None:
    def user() -> tuple[list[Any], list[Any]]:
        return rng.integers(0, 256, (12, 784)).__truediv__(255).round(4).tolist(), rng.integers(0, 62, 12).tolist()

    _leaf(place, {f"f{n:04d}": user() for n in range(20)})


def _shakespeare(place: Path, rng: np.random.Generator) -> None:
    def user() -> tuple[list[Any], list[Any]]:
        text = "".join(rng.choice(list(LETTERS), 80 + 30))
        return [text[i : i + 80] for i in range(30)], [text[i + 80] for i in range(30)]

    _leaf(place, {f"A_PLAY_ROLE{n}": user() for n in range(30)})


def _sent140(place: Path, rng: np.random.Generator) -> None:
    words = ["".join(rng.choice(list("bdklmnrst"), 5)) for _ in range(200)]
    rows = [(rng.choice(["0", "4"]), str(n), "a day", "NO_QUERY", f"user{n % 20}", " ".join(rng.choice(words, 9)))
            for n in range(20 * 30)]  # fmt: skip
    with (place / "training.made-up.csv").open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(rows)


def _movielens(place: Path, rng: np.random.Generator) -> None:
    films = [(n, f"Film {n}", f"{'ABCDEFGH'[n % 8]}|Other") for n in range(100)]
    ratings = [(u, int(film), 3.5, 10**9 + 10**5 * i + 7 * u) for u in range(20)
               for i, film in enumerate(rng.choice(100, 30, replace=False))]  # fmt: skip
    _csv(place / "ratings.csv", ("userId", "movieId", "rating", "timestamp"), ratings)
    _csv(place / "movies.csv", ("movieId", "title", "genres"), films)


def _landmine(place: Path, rng: np.random.Generator) -> None:
    from scipy.io import savemat

    features, labels = np.empty((1, 20), object), np.empty((1, 20), object)
    for n in range(20):
        features[0, n], labels[0, n] = rng.normal(size=(30, 9)), rng.integers(0, 2, (30, 1)).astype(float)
    savemat(place / "LandmineData.mat", {"feature": features, "label": labels})


def _csv(path: Path, head: tuple[str, ...], rows: list[Any]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
