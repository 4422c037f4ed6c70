"""Where results land for good: one file a kind of sink."""
