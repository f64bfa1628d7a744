"""Measured runs of others and one's own: their rows read, our error on them, constants fitted to them."""
