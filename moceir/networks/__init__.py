"""The networks. This package imports no other package of moceir."""
