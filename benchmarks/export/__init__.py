"""Kept grafts for other programs: ONNX, TorchScript, merged weights, a folder of the Hugging Face kind; model cards."""
