"""Runs a network on pictures of any size, strip by strip, on all cores."""
