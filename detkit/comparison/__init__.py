"""Parity reports: detkit's model against the reference that its weights come from, stage by stage."""
