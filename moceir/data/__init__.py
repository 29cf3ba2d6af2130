"""Turns files into batches. Handles value ranges and randomness, and depends on no network."""
