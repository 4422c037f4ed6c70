"""How many calls in flight, how big a batch: arithmetic only - no clock, no loop, no I/O."""
