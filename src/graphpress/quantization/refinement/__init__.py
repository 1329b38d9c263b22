"""Layer-wise optimization of weight rounding, and bias correction, on calibration data."""
