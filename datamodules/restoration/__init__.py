"""Datasets of pictures to restore."""
