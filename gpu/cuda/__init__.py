"""The CUDA engine's parts: device memory, one launcher per kernel file, inverted lists."""
