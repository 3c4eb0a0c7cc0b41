"""A worker of thirty lines: serves /health on its port; flags make it slow, sick, deaf or mortal."""

import argparse
import http.server
import os
import signal
import sys
import time


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--load-s", type=float, default=0)
    parser.add_argument("--die-s", type=float, default=None)
    parser.add_argument("--die-code", type=int, default=3)
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--lease", action="store_true", help="end when the gateway is gone")
    parser.add_argument("--fork", action="store_true", help="leave a grandchild in a session of its own")
    return parser.parse_args()


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(given.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def log_message(self, *_):
        pass


given = options()
if given.lease:
    sys.path.insert(0, os.environ["DISAGG_RUN"] + "/runtime.pyz")
    from disagg_launch.runtime import lease

    def lost(reason):
        # not printed: whoever read our output was the gateway
        with open(os.environ["DISAGG_RUN"] + "/lost", "w") as file:
            file.write(reason)
        os._exit(0)

    lease.hold(lost)
print("i am", os.environ.get("DISAGG_INSTANCE", "router"), "pid", os.getpid(), flush=True)
if given.deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if given.fork and os.fork() == 0:
    os.setsid()
    time.sleep(600)
time.sleep(given.load_s)
if given.die_s is not None:
    time.sleep(given.die_s)
    print("ValueError: no such model", flush=True)
    sys.exit(given.die_code)
if os.environ.get("DISAGG_INSTANCE_RANK", "0") != "0":
    time.sleep(600)  # only the first rank of an instance owns its port
http.server.ThreadingHTTPServer(("127.0.0.1", given.port), Health).serve_forever()
