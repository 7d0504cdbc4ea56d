"""What the servers serve: the same few answers in each interface."""
