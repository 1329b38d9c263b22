"""Compiler passes over the IR, one per module."""
