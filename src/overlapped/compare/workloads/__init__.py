"""What the models are compared on: one file a workload."""
