"""ONNX networks: ONNX Runtime sessions, and their conversion to torch for gradients and layers."""
