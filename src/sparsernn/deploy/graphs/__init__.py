"""Models over whole sequences as graphs for other programs: what they read, and how each part is written in ONNX."""
