"""Choosing codes and correcting biases by what layers do to calibration data, one layer after the other."""
