"""Measuring what was forgotten and what it cost."""
