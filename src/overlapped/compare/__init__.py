"""Every I/O model of the field on the same work, side by side: one file a model, each run in a fresh process."""
