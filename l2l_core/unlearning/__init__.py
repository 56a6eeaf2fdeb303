"""Unlearning: the objective, the noise it aims at, and the loop that applies it."""
