"""All-in-one image restoration with a mixture of complexity experts."""

from moceir import complexity
from moceir.inference.restore import Restorer
from moceir.inference.weights import load_network, load_pretrained, save_network
from moceir.network.unet import MoCEIR, Restoration

__all__ = ["MoCEIR", "Restoration", "Restorer", "complexity", "load_network", "load_pretrained", "save_network"]
