"""Benchmarks for asv: `make bench`, or `asv run --python=same --quick`."""
