"""From files to batches; knows value ranges and randomness, and no network."""
