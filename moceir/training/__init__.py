"""The Lightning module that trains a network."""

from moceir.extras import remedy

try:
    import lightning as _lightning  # noqa: F401
except ImportError as error:
    raise ImportError(remedy("moceir.training", "lightning", "train")) from error
