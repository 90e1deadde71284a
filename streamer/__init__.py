"""The streaming speech-recognition daemon and its command line. Importable without torch."""

__version__ = "0.1.0"
