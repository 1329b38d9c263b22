"""From a failure to its cause: bisection, reproducers, reduction."""
