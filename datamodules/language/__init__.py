"""Pictures with sentences."""
