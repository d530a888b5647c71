"""What is found out about a step that failed, and how it is run again."""
