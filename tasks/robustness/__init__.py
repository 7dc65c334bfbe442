"""Robustness: attacks on classifiers, and the classifiers they are tried on."""
