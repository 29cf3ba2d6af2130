"""The command line: each command parses options, builds objects and calls them."""
