"""Faults, each in a Python process of its own: nothing hangs, nothing is lost, nothing is left."""
