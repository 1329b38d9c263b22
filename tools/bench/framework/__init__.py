"""The pass framework beside xDSL, onnx-ir, onnxscript, torch.fx and TVM, on the same graphs."""
