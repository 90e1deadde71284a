"""Training: cached features, losses, the loop and releases."""
