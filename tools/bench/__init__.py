"""Benchmarks against the peer package, and what they need."""
