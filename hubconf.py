"""What ``torch.hub.load`` finds in this repository."""

dependencies = ["torch", "safetensors", "einops", "numpy", "cv2", "PIL"]


def moce_ir_30g(pretrained: bool = True):  # torch.hub imports what it needs only then
    """The network of 571,001 parameters, with the shipped weights or, untrained, as it begins."""
    import moceir

    return moceir.load_pretrained("moce_ir_30g") if pretrained else moceir.MoCEIR().eval()


def naf_free_30g(pretrained: bool = True):
    """The second network without experts, with weights from freely licensed photographs or, untrained, as it begins."""
    import moceir

    return moceir.load_pretrained("naf_free_30g") if pretrained else moceir.NAFNet().eval()


def naf_mixture_30g(pretrained: bool = True):
    """The second network, with experts, with the shipped weights or, untrained, as it begins."""
    import moceir

    return moceir.load_pretrained("naf_mixture_30g") if pretrained else moceir.NAFMixture().eval()
