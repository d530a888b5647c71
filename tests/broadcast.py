"""A stream on this machine."""

import socketserver
import threading

import av
import numpy as np


class Broadcast(socketserver.ThreadingTCPServer):
    """Sends a stream of so many frames of one red to everyone who comes."""

    daemon_threads = True

    def __init__(self, folder, num, red):
        path = folder / f"{red}.ts"
        with av.open(str(path), "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 5
            for _ in range(num):
                picture = np.full((48, 64, 3), (red, 0, 0), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        self.content = path.read_bytes()
        super().__init__(("127.0.0.1", 0), None)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def finish_request(self, request, client_address):
        request.sendall(self.content)

    @property
    def address(self):
        """Where it is."""
        return f"tcp://127.0.0.1:{self.server_address[1]}"
