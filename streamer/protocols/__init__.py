"""What clients and the daemon say to each other: events, and one module per dialect."""
