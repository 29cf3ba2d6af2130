"""Other people's programs, told of our networks."""
