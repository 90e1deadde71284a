"""Measurements, not tests: figures go into tables with the machine's name beside them."""
