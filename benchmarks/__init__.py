"""Benchmarks of speed and accuracy: ``python -m benchmarks.speed.vs_loop --quick``.

Each prints a table and writes it to ``benchmarks/results``, with the machine and the
command, from where the documentation reads it.
"""
