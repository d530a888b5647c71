"""Pictures of instances and of a training run, and video files."""

from detkit.visualization.cameras import is_live, shown_name
from detkit.visualization.colors import palette
from detkit.visualization.comparison import draw_comparison, match_instances
from detkit.visualization.curves import plot_curves, read_metrics
from detkit.visualization.draw import draw_instances, draw_prediction
from detkit.visualization.drawing import MAX_SIDE, Drawing
from detkit.visualization.inputs import ChannelOrder, ImageLike, image_files, to_array, walk_images
from detkit.visualization.pictures import (
    draw_predictions,
    prediction_picture,
    write_picture,
    write_prediction_pictures,
)
from detkit.visualization.sheet import side_by_side
from detkit.visualization.video import VIDEO_SUFFIXES, Frame, VideoWriter, is_video, video_frames, video_info

__all__ = [
    "MAX_SIDE",
    "VIDEO_SUFFIXES",
    "ChannelOrder",
    "Drawing",
    "Frame",
    "ImageLike",
    "VideoWriter",
    "draw_comparison",
    "draw_instances",
    "draw_prediction",
    "draw_predictions",
    "image_files",
    "is_live",
    "is_video",
    "match_instances",
    "palette",
    "plot_curves",
    "prediction_picture",
    "read_metrics",
    "shown_name",
    "side_by_side",
    "to_array",
    "video_frames",
    "video_info",
    "walk_images",
    "write_picture",
    "write_prediction_pictures",
]
