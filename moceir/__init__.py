"""All-in-one image restoration with a mixture of complexity experts."""

from importlib.metadata import version

from moceir import complexity
from moceir.inference.restore import Restorer
from moceir.inference.weights import load_network, load_pretrained, save_network
from moceir.networks.interface import Restoration
from moceir.networks.moce_ir import MoCEIR
from moceir.networks.naf import NAFNet
from moceir.networks.naf_mixture import NAFMixture

__version__ = version("moceir")

__all__ = [
    "MoCEIR",
    "NAFMixture",
    "NAFNet",
    "Restoration",
    "Restorer",
    "complexity",
    "load_network",
    "load_pretrained",
    "save_network",
]
