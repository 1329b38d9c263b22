"""Shared parts of the readers of saved programs."""
