"""Models become artefacts here: ONNX graphs, quantised weights, and the proof that they agree with torch."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in streamer/__init__.py; before ONNX Runtime is imported
