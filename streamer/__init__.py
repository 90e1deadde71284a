"""The streaming speech-recognition daemon and its command line. Importable without torch."""

import os

__version__ = "0.1.0"

# ONNX Runtime reads this when it is imported: without it, it keeps an id of the machine and a queue of reports in HOME.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
