"""detkit: object detection and instance segmentation from registered, interchangeable components."""

__version__ = "0.1.0"
