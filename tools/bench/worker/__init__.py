"""The half of the benchmark that runs inside either environment.

It imports torch, the shared models and the package it is told to measure, nothing else of ours,
so the very same code times both sides.
"""
