"""The `passctl` command line: inspect graphs in a pipeline, compress models, compare graphs, time passes."""
