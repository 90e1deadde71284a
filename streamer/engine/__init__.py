"""The engine: streams share one backend, step by step, on one thread."""
