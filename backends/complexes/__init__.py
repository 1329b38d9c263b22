"""Complex tensors of exported programs as pairs of real ones.

Neither converter has complex numbers throughout: coremltools has transforms of some forms and no arithmetic, and the
Core AI converter has arithmetic but no transforms. Both get a program of real tensors, whose results are torch's.
"""

from graphpress.backends.complexes import arithmetic, fourier, frames, shapes
from graphpress.backends.complexes.program import with_real_tensors

__all__ = ["arithmetic", "fourier", "frames", "shapes", "with_real_tensors"]
