"""Arbitrary pictures in, restored pictures out; needs neither Lightning nor Hydra."""
