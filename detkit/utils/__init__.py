"""Distributed helpers, logging, paths, seeds and the environment report."""
