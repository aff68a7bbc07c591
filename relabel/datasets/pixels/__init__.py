"""Pixels: where an image's bytes are, reading and batching them, placing them as files."""
