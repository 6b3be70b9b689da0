"""Quantized indexes side by side: queries a second at the same recall, in one process."""
