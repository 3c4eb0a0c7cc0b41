"""An in-process worker: sums ranks over its instance's communicator, then its first rank serves; flags make one rank fail."""

import http.server
import os
import sys
import threading
import time


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def run(argv, comm):
    port, *flags = argv
    total = comm.allreduce(comm.Get_rank())
    print(f"instance {os.environ['DISAGG_INSTANCE']} rank {comm.Get_rank()} of {comm.Get_size()} total {total} pid {os.getpid()}")
    if f"--fail={os.environ['DISAGG_RANK']}" in flags:
        raise RuntimeError("this rank was told to fail")
    if f"--leave={os.environ['DISAGG_RANK']}" in flags:
        sys.exit(9)
    if comm.Get_rank() == 0:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Health)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    time.sleep(600)
