"""The comparison: every model, what is made of their runs, and the command."""
