"""Word vectors from a text file as GloVe's: a word and its numbers in each line.

Source: Pennington, Socher, Manning, "GloVe: Global Vectors for Word Representation", 2014.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from difnet.data import Array
from difnet.data.cache import Writer, kept
from difnet.data.stream import REMEDY, lines
from difnet.errors import DataError, EnvironmentLacks


def read(path: Path, words: Sequence[str]) -> Array:
    """The vectors of these words, float32 (words, d), memory-mapped; zeros for a word that the file lacks.

    Of the file, which may be gzipped, no more than one line and these vectors are in memory.

    Raises: EnvironmentLacks, if there is no such file; DataError, naming the line that is not as long as the first, or
        if the file has none of the words.
    """
    if not path.is_file():
        raise EnvironmentLacks(f"there are no word vectors {path}; GloVe's are at nlp.stanford.edu/projects/glove, and "
                               f"without any (task.vectors) they are learnt with the model")  # fmt: skip

    def parse(writer: Writer) -> None:
        place = {word: n for n, word in enumerate(words)}
        vectors, size, found = np.empty((0, 0), np.float32), 0, 0
        for number, line in enumerate(lines(path), 1):
            if not line.strip():
                continue
            if not size:
                size = line.rstrip().count(" ")
                vectors = np.zeros((len(words), size), dtype=np.float32)
            word, *values = line.rstrip().rsplit(" ", size)  # some words hold blanks
            if len(values) != size or not size:
                raise DataError(f"{path}, line {number}: {len(values)} numbers after a word; the first line has "
                                f"{size}, and all must have as many, one at least. {REMEDY}.")  # fmt: skip
            if (n := place.pop(word, None)) is not None:
                vectors[n] = _vector(path, number, values)
                found += 1
        if not found:
            raise DataError(f"{path} has none of the {len(words)} words that are needed; a line is a word in small "
                            f"letters and its numbers, with single blanks between them. {REMEDY}.")  # fmt: skip
        writer.add("vectors", vectors)
        writer.facts = {"found": found}

    wanted = hashlib.sha256("\n".join(words).encode()).hexdigest()
    return kept("glove 1", [path], parse, {"words": wanted}).arrays["vectors"]


def _vector(path: Path, number: int, values: list[str]) -> Array:
    try:
        vector = np.array(values, dtype=np.float32)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}; after the word, all must be numbers. {REMEDY}.") from error
    if not np.isfinite(vector).all():
        raise DataError(f"{path}, line {number}: not all of its numbers are finite. {REMEDY}.")
    return vector
