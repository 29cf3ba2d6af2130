"""Networks as graphs for other runtimes: ONNX, and from it OpenVINO."""
