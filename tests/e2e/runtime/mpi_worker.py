"""An in-process worker: sums ranks over its instance's communicator, then its first rank serves; flags make one rank fail."""

import http.server
import os
import sys
import time

from mpi4py import MPI


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def serve(port):
    http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Health).serve_forever()


def run(argv, comm):
    port, *flags = argv
    if comm is None:
        return serve(port)
    total = comm.allreduce(comm.Get_rank())
    version = MPI.Get_library_version().strip().replace("Version:", "").split()
    print("library", *version[:3])
    print(f"instance {os.environ['DISAGG_INSTANCE']} rank {comm.Get_rank()} of {comm.Get_size()} total {total} pid {os.getpid()}")
    if f"--fail={os.environ['DISAGG_RANK']}" in flags:
        raise RuntimeError("this rank was told to fail")
    if f"--leave={os.environ['DISAGG_RANK']}" in flags:
        sys.exit(9)
    return serve(port) if comm.Get_rank() == 0 else time.sleep(600)


if __name__ == "__main__":
    run(sys.argv[1:], None)
