"""Kernels of the CPU backend, compiled by numba: LLVM vector code, no compiler on the machine."""
