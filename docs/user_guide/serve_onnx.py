"""Answer requests with a model of ONNX; it needs numpy and onnxruntime, and no other package."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
width = session.get_inputs()[0].shape[1]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        rows = np.asarray(json.loads(body), dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != width or not np.isfinite(rows).all():
            self.send_error(400, f"rows of {width} finite numbers, please")
            return
        results = zip(session.get_outputs(), session.run(None, {"X": rows}), strict=True)
        answer = {output.name: values.tolist() for output, values in results}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
print(server.server_port, flush=True)
server.serve_forever()
