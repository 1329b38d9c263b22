"""Module surgery: computed parameters, memory-mapped tensors, and the parameters that a config selects."""
