"""Failure analysis: bisection, reproducers and reduction."""
