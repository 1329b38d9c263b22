"""`passctl`: look at a graph anywhere in a pipeline, compress a model, compare graphs, time passes."""
