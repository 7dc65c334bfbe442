"""Restoration: pictures brought back from less than they were."""
