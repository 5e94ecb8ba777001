"""Rounds of federated learning as pure, jitted functions: clients are rows."""
