"""Models become artefacts here: ONNX graphs, quantised weights, and the proof that they agree with torch."""
