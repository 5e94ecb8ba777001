"""Baselines in PyTorch."""
