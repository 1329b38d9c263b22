"""Module surgery: computed parameters, memory-mapped tensors, and which parameters a config means."""
