"""Clients of the daemon: the Python class and the file sender."""
