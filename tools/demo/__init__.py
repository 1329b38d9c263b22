"""The demo: a trained EDSR, compressed two ways, from PyTorch to assets that the Core AI runtime executes."""
