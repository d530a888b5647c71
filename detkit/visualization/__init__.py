"""Pictures of instances and of a training run, and video files."""

from detkit.visualization.colors import palette
from detkit.visualization.curves import plot_curves, read_metrics
from detkit.visualization.draw import draw_instances
from detkit.visualization.pictures import prediction_picture, side_by_side, write_picture
from detkit.visualization.predictions import write_prediction_pictures
from detkit.visualization.video import VIDEO_SUFFIXES, VideoWriter, video_frames, video_info

__all__ = [
    "VIDEO_SUFFIXES",
    "VideoWriter",
    "draw_instances",
    "palette",
    "plot_curves",
    "prediction_picture",
    "read_metrics",
    "side_by_side",
    "video_frames",
    "video_info",
    "write_picture",
    "write_prediction_pictures",
]
