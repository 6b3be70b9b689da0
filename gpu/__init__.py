"""The index engine: arrays in, arrays out. It knows no HTTP, no Postgres and no keys."""

from .backend import Backend
from .compaction import compacted
from .cuda.options import CudaOptions
from .errors import (
    BackendError,
    BadInput,
    DeviceLost,
    EngineError,
    FileCorrupt,
    IndexFull,
    TrainingStopped,
)
from .hits import SearchResult
from .index import Index
from .mask import PackedMask
from .numpy_backend import NumpyBackend
from .opening import open_backend
from .params import IndexParams, Metric
from .recall import measure_recall
from .rewriting import rewritten
from .state import IndexState
from .trained import Trained
from .training import train
from .warmup import warm_up

__all__ = [
    "Backend",
    "BackendError",
    "BadInput",
    "CudaOptions",
    "DeviceLost",
    "EngineError",
    "FileCorrupt",
    "Index",
    "IndexFull",
    "IndexParams",
    "IndexState",
    "Metric",
    "NumpyBackend",
    "PackedMask",
    "SearchResult",
    "Trained",
    "TrainingStopped",
    "compacted",
    "measure_recall",
    "open_backend",
    "rewritten",
    "train",
    "warm_up",
]
