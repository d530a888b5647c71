"""Cameras and streams: sources of frames that have no end, and how PyAV opens them."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from detkit.zoo import without_login

_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "tcp")
_PROTOCOLS = f"{','.join(_SCHEMES)},srtp,tls,http,https,httpproxy,crypto,data"
"""What a stream may lead to: no file of this machine."""
_LIVE_SUFFIXES = (".m3u8", ".mjpg", ".mjpeg")
SECONDS = 10.0
"""After so long without a frame a source is given up."""


def is_live(source: Any) -> bool:
    """Whether a source is a camera (0, ``"0"``, ``/dev/video0``) or the address of a stream, and so has no end."""
    if isinstance(source, bool) or not isinstance(source, int | str | os.PathLike):
        return False
    text = os.fspath(source) if not isinstance(source, int) else str(source)
    scheme, _, rest = text.partition("://")
    if rest:
        ends = (re.split(r"[?#]", rest)[0].lower(), rest.lower())  # many write camera/video?.mjpg for OpenCV's sake
        is_list = any(end.endswith(_LIVE_SUFFIXES) for end in ends)
        return scheme.lower() in _SCHEMES or (scheme.lower() in ("http", "https") and is_list)
    if isinstance(source, str) and text.isdecimal():
        return not Path(text).exists()
    return (isinstance(source, int) and source >= 0) or re.fullmatch(r"/dev/video\d+", text) is not None


def shown_name(source: Any) -> str:
    """What to call a source: an address without the user's name and password."""
    return without_login(str(source))


def live_options(source: int | str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments by which ``av.open`` opens a camera or a stream.

    Raises:
        ValueError: a camera's number, on a system where cameras have none.
    """
    text = str(source)
    options: dict[str, Any] = {"timeout": (SECONDS, SECONDS)}
    if "://" in text:
        transport = {"rtsp_transport": "tcp"} if text.lower().startswith("rtsp") else {}
        return {**options, "file": text, "options": {"protocol_whitelist": _PROTOCOLS, **transport}}
    number = re.sub(r"\D", "", text)
    if sys.platform == "linux":
        return {**options, "file": f"/dev/video{number}", "format": "v4l2"}
    if sys.platform == "darwin":
        return {**options, "file": number, "format": "avfoundation", "options": {"framerate": "30"}}
    raise ValueError(f"camera {text}: cameras have numbers on Linux and macOS alone; give the address of a stream")
