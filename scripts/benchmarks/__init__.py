"""The rows of scripts/bench: how each is measured, and against what."""
