"""Synthetic volumes and pictures with known truth."""
