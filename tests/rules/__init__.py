"""The 26 rules of docs/design.md, one file a rule, each promise a test."""
