"""Benchmarks: detkit and what it is measured against, in turn, in one process, on the same inputs and weights.

``options`` has a class for each benchmark, which names the module with its ``run(options) -> Report``. Nothing is
imported here, because ``tools/benchmark.py --help`` needs the options alone.
"""
