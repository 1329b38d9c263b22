"""What the quantization passes share: points, known ranges, masks."""
