"""worker.py PORT LOAD_S FOLDER [HOST]: sleeps, then answers every request on PORT with 200.

How long that took from its first line on, its own time, is left in FOLDER/PORT.
"""

import socket
import sys
import time

began_s = time.monotonic()
time.sleep(float(sys.argv[2]))
server = socket.create_server((sys.argv[4] if len(sys.argv) > 4 else "127.0.0.1", int(sys.argv[1])), backlog=128)
with open(f"{sys.argv[3]}/{sys.argv[1]}", "w") as file:
    file.write(str(time.monotonic() - began_s))
while True:
    connection, _ = server.accept()
    with connection:
        try:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        except OSError:
            continue
