"""Layers as products of matrices, and moments of their inputs."""
