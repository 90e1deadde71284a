"""The captions page in a real browser."""
