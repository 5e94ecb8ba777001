"""Measurements: one script per question, each with a `--smoke` scale that the tests run."""
