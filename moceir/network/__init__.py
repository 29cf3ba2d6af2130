"""The mathematics of the network; imports nothing else of moceir."""
