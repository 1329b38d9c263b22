"""Benchmarks of graphpress and of its peer package."""
