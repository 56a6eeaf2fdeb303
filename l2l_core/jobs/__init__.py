"""Runs as folders, a queue of them, and the two processes that serve it."""
