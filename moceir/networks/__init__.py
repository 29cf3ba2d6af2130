"""The mathematics of networks: it imports nothing else of this package."""
