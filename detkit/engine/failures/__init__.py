"""Failures of a training step: what is written down, what is known of the cause, and how it is run again."""
