"""The Lightning module that trains a network."""
