"""Comparisons of detkit's models with the frameworks that their weights come from, stage by stage.

For ``detkit compare``; ``tools/benchmark.py`` builds its candidates with it. They need the checkout's
configs.
"""
