"""A worker with PyTorch on a real GPU: `gpu_worker.py PORT HOW`. It says which device it holds, then does HOW and, where that ends, serves.

hold: nothing more. fill: take GPU memory in silence and with an idle processor, for a minute. burst: ask for more than there is.
join: wait for another rank in NCCL. reduce: reduce with all ranks for ever, while rank 1 is killed. stray: an index outside of its tensor.
"""

import os
import signal
import socket
import sys
import time

import torch
import torch.distributed

PIECE_BYTES = 512 << 20


def fill():
    held = []
    for _ in range(30):
        held.append(torch.empty(PIECE_BYTES, dtype=torch.uint8, device="cuda"))
        time.sleep(2)


def burst():
    torch.empty(torch.cuda.get_device_properties(0).total_memory * 2, dtype=torch.uint8, device="cuda")


def stray():
    print(torch.arange(8, device="cuda")[torch.tensor([8], device="cuda")])


def world():
    rank, run = int(os.environ["DISAGG_INSTANCE_RANK"]), os.environ["DISAGG_RUN"]
    torch.distributed.init_process_group("nccl", init_method=f"file://{run}/nccl", rank=rank, world_size=2)
    return rank


def join():
    if world() == 0:
        torch.distributed.all_reduce(torch.ones(1, device="cuda"))
        torch.cuda.synchronize()
    time.sleep(600)


def reduce():
    rank = world()
    for count in range(10**9):
        torch.distributed.all_reduce(torch.ones(1, device="cuda"))
        torch.cuda.synchronize()
        if rank == 1 and count == 20:
            os.kill(os.getpid(), signal.SIGKILL)


def serve(port):
    server = socket.create_server(("127.0.0.1", port))
    while True:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 so\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


torch.zeros(1, device="cuda")
print("i am", os.environ["DISAGG_INSTANCE"], "pid", os.getpid(), "on", torch.cuda.get_device_properties(0).uuid, flush=True)
{"hold": list, "fill": fill, "burst": burst, "join": join, "reduce": reduce, "stray": stray}[sys.argv[2]]()
serve(int(sys.argv[1]))
