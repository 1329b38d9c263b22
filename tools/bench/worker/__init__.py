"""The part of the benchmark that runs in either environment.

It imports only torch, the shared models and the measured package, so that the same code times both sides.
"""
