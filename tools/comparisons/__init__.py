"""Comparison with fixtures: numbers that Detectron2 or pytorch-mask-rcnn once computed. For compare_checkpoint.py."""
