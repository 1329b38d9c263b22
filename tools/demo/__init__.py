"""Demo: a trained EDSR, compressed in two ways, from PyTorch to Core AI assets."""
