"""What happens around training steps: the hooks of every run, and those that a config adds."""
