"""Models as ONNX files, for programs without PyTorch: ``files.export`` writes them."""
