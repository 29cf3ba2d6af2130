"""Restores arrays, pictures, videos and folders; needs neither Lightning nor Hydra."""
