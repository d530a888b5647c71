"""Failures of a training step: what is written down, what can be told of the cause, and how it is run again."""
