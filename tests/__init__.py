"""Tests: each file states the promises of one room."""
