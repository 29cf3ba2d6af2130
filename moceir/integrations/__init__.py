"""Support for our networks in other programs."""
