"""Numba kernels: arrays in, `out=` arrays, no classes, no tables. One verb per file."""
