"""The index engine: arrays in, arrays out. It knows no HTTP, no Postgres and no keys."""

from .errors import BackendError, BadInput, EngineError, FileCorrupt, IndexFull, TrainingStopped
from .hits import SearchResult
from .index import Index
from .numpy_backend import NumpyBackend
from .params import IndexParams, Metric
from .state import IndexState

__all__ = [
    "BackendError",
    "BadInput",
    "EngineError",
    "FileCorrupt",
    "Index",
    "IndexFull",
    "IndexParams",
    "IndexState",
    "Metric",
    "NumpyBackend",
    "SearchResult",
    "TrainingStopped",
]
