"""Datasets for attacks on classifiers and defences against them."""
