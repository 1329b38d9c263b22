"""An example model: EDSR, trained to double the resolution of photographs."""

from graphpress.tools.edsr.model import EDSR, load_trained

__all__ = ["EDSR", "load_trained"]
