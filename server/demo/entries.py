"""The rows of the demonstration: WordNet entries with 384-d embeddings (see data/LICENSE)."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt

DIM = 384


@dataclass(frozen=True, slots=True)
class Entries:
    """n entries: ``words`` (several may share one meaning), ``glosses``, ``vectors`` f32[n, 384].

    Vectors have unit length. Entry i of the two sets together has id ``first_id + i`` in the table.
    """

    first_id: int
    words: list[str]
    glosses: list[str]
    vectors: npt.NDArray[np.float32]

    def __len__(self) -> int:
        """Return n."""
        return len(self.words)


def table_entries() -> Entries:
    """Return the 10,000 entries the table starts with, ids from 1."""
    return _read("words", 1)


def further_entries() -> Entries:
    """Return 300 entries that are not in the table: for INSERTs and as queries; ids follow on."""
    return _read("more", 10_001)


def _read(name: str, first_id: int) -> Entries:
    folder = files(__package__) / "data"
    with (folder / f"{name}.npy").open("rb") as raw:
        vectors = np.load(raw).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = gzip.decompress((folder / f"{name}.txt.gz").read_bytes()).decode().splitlines()
    words, glosses = zip(*(text.split(": ", 1) for text in texts), strict=True)
    return Entries(first_id, list(words), list(glosses), vectors)
