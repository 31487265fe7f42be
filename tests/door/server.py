"""The web app as it is run: gunicorn's processes and threads on a loopback port, in a whole deployment."""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.door.house import URL
from tests.helpers.deliveries import Delivery, sign
from tests.helpers.house import SECRET, House
from tests.helpers.waiting import wait_until
from webapp.up import web_command


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    house: House
    port: int

    @property
    def log(self) -> str:
        """Return what it has written."""
        return self.house.read("web.log")

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection that stays open."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def raw(self, request: bytes) -> tuple[int, dict[str, Any]]:
        """Send bytes as they are and no more; return status and body, 0 and nothing when there is no answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            response = http.client.HTTPResponse(connection)
            try:
                response.begin()
            except (http.client.BadStatusLine, ConnectionError):
                return 0, {}
            text = response.read()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(text) if is_json else {}


@contextmanager
def served(folder: Path, *, broker: bool = True, **settings: Any) -> Iterator[Server]:
    """Start a deployment with its web app, and two instances of each type. Without a broker it starts none."""
    house = House(folder, **settings)
    try:
        if broker:
            house.start_broker()
        for name in ("dev", "reviewer", "boss"):
            house.add(f"{name}-alpha", f"{name}-bravo", type_name=name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        process = house.start(web_command(f"127.0.0.1:{port}"), log="web.log")
        server = Server(house, port)
        wait_until(lambda: answers(server) or process.poll() is not None, 30)
        assert process.poll() is None, server.log
        yield server
    finally:
        house.__exit__()


def answers(server: Server) -> bool:
    """Tell whether the server serves."""
    connection = server.connect()
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def request_of(
    body: bytes, headers: Mapping[str, str] | list[tuple[str, str]], *, chunks: bytes | None = None
) -> bytes:
    """Return the bytes of a POST. chunks: send these in place of the body, without a length."""
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    pairs.append(("Transfer-Encoding", "chunked") if chunks is not None else ("Content-Length", str(len(body))))
    head = "".join(f"{name}: {value}\r\n" for name, value in pairs)
    sent = f"POST {URL} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n"
    return sent.encode("latin-1") + (body if chunks is None else chunks)


def in_chunks(body: bytes, size: int = 1000) -> bytes:
    """Return a body as a sender without a length sends it."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def signed(delivery: Delivery) -> dict[str, str]:
    """Return the headers of a delivery with its signature."""
    return {**delivery.headers, **sign(delivery.body, SECRET.encode())}
