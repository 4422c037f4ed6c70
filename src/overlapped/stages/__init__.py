"""What is done with the items; one file a verb. A stage describes itself and attaches to a run."""
