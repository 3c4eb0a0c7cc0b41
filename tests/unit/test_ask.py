"""`ask` and `client` against servers that are not there, silent, or no routers: an error of the table, never a traceback or a wait."""

from __future__ import annotations

import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from certificates import certificate

MODELS = b'{"data": [{"id": "m"}]}'
PIECE = b'data: {"choices": [{"delta": {"content": "so far"}}]}\n\n'


class Server(BaseHTTPRequestHandler):
    """Says which models there are; its answers break off in the middle."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = MODELS if self.path == "/v1/models" else b"<html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_https_router_is_known_by_its_certificate_alone(tmp_path: pathlib.Path) -> None:
    """Signed by nobody and for another name, it is the one in the file; any other is not, nor is one that nobody vouches for."""
    cert, key = certificate(tmp_path, host="elsewhere.example")
    other, _ = certificate(tmp_path, "other", host="localhost")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        shown.load_cert_chain(cert, key)
        server.socket = shown.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://localhost:{server.server_port}"
        assert ask("hello", "--url", url, "--trust", str(cert))[:2] == (6, "so far")  # as far as this server ever comes
        for trust in (["--trust", str(other)], []):
            code, out, err = ask("hello", "--url", url, *trust)
            assert (code, out) == (2, "") and "is not shown to be the router" in err
        code, _, err = ask("hello", "--url", url, "--trust", str(key))
        assert (code, err) == (2, f"disagg-launch: {key}: found no certificate; the router's is needed there, in PEM form\n")
        assert "begins with https://" in ask("hello", "--url", url.replace("https", "http"))[2]
        server.shutdown()


def ask(*words: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-m", "disagg_launch", "ask", *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_an_answer_that_breaks_off(url: str) -> None:
    code, out, err = ask("hello", "--url", url)
    assert (code, out) == (6, "so far")
    assert err == "disagg-launch: the answer broke off after 1 pieces: the connection ended\n"


def test_a_server_that_is_no_router(url: str) -> None:
    code, _, err = ask("hello", "--url", f"{url}/elsewhere")
    assert code == 2
    assert "does not speak as an OpenAI-compatible server; give the router's address" in err


@pytest.mark.parametrize(("address", "code", "said"), [
    ("127.0.0.1", 2, "no address of a router"),
    ("ftp://127.0.0.1", 2, "no address of a router"),
    ("http://127.0.0.1:1", 5, "nobody listens there"),
])  # fmt: skip
def test_addresses_where_no_router_is(address: str, code: int, said: str) -> None:
    got, _, err = ask("hello", "--url", address)
    assert got == code
    assert said in err


def test_ctrl_c_does_not_wait_for_a_server_that_is_silent(tmp_path: pathlib.Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "prompts.json").write_text('["a", "b"]')
    (tmp_path / "spec.yaml").write_text("model: m\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "disagg_launch", "client", "-c", "spec.yaml", "-p", "prompts.json", "--url", address]
        # tests that were started in the background of a shell have inherited an ignored SIGINT
        heed = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
        asks = subprocess.Popen(command, cwd=tmp_path, preexec_fn=heed)
        request.addfinalizer(asks.kill)
        silent.settimeout(60)
        waiting = []
        while len(waiting) < 2:  # both prompts were sent, and wait for ever
            connection = silent.accept()[0]
            if connection.recv(65536).startswith(b"GET"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(MODELS), MODELS))
            else:
                waiting.append(connection)
        asks.send_signal(signal.SIGINT)
        assert asks.wait(timeout=60) == 130
        assert not (tmp_path / "output.json").exists()
