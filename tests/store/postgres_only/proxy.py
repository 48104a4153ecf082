"""A TCP proxy before a server, for everything that a network does to a connection."""

from __future__ import annotations

import select
import socket
import threading
import time
from typing import Dict, List, Optional, Tuple

Pair = Tuple[socket.socket, socket.socket]  # the client's and the server's

# libpq's word after a pipeline's last statement, that answers be sent now. It may come in a piece of its own, when they
# have been already; nobody waits for an answer to it.
FLUSH = b"H\0\0\0\4"


class Proxy:
    """Forwards every connection to the server until it is told otherwise; ``port`` is where it listens."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._pairs: List[Pair] = []
        self._frozen = False
        self._refuses = False
        #: How long each piece takes, in either direction.
        self.delay_s = 0.0
        #: How often a client has spoken first, or again after the server had: each time it waits for a whole way.
        self.round_trips = 0
        self._spoke: Dict[socket.socket, bool] = {}  # by the client's side: whether it spoke last
        self._lose_answer: Optional[float] = None
        self._delay_request = False
        self._cut_after: Optional[int] = None
        self._late: List[Tuple[socket.socket, bytes]] = []  # servers' sides without a client, and what they get late
        self._closed = False
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(50)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def lose_next_answer(self) -> None:
        """Cut every connection instead of passing the server's next words on; what it did is done."""
        self._lose_answer = 0.05

    def delay_next_request(self) -> None:
        """Cut the connection of whoever sends something next; the server gets that with ``deliver_late``."""
        self._delay_request = True

    def deliver_late(self) -> None:
        """Give the server what it did not get in time, and wait until it has done it."""
        for server, data in self._late:
            server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            while server.recv(65536):
                pass
            server.close()
        self._late = []

    def cut(self) -> None:
        """Cut every connection; new ones go through."""
        for pair in list(self._pairs):
            self._end(pair)

    def cut_after(self, count: int) -> None:
        """Cut the connection whose client brings the bytes that clients send from now on to *count*; that once."""
        self._cut_after = count

    def lead_to(self, server_port: int) -> None:
        """Cut every connection, and lead new ones to another server."""
        self._server_port = server_port
        self.cut()

    def refuse(self) -> None:
        """Cut every connection, and each new one at once."""
        self._refuses = True
        self.cut()

    def admit(self) -> None:
        """Let new connections through again."""
        self._refuses = False

    def freeze(self) -> None:
        """Pass nothing on any more and close nothing: the other side seems to think for ever."""
        self._frozen = True

    def thaw(self) -> None:
        """Pass on again."""
        self._frozen = False

    def close(self) -> None:
        """End all."""
        self._closed = True
        self._thread.join()
        self.cut()
        self._listener.close()

    def _work(self) -> None:
        while not self._closed:
            if self._frozen:
                time.sleep(0.01)
                continue
            sockets = [one for pair in self._pairs for one in pair]
            try:
                found = select.select([self._listener, *sockets], [], [], 0.02)[0]
            except (OSError, ValueError):
                continue  # ``cut`` has just closed one of them
            for ready in found:
                if ready is self._listener:
                    self._accept()
                else:
                    self._pass_on(ready)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._refuses:
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port))
        except OSError:
            client.close()
            return
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs.append((client, server))

    def _pass_on(self, source: socket.socket) -> None:
        pair = next((pair for pair in self._pairs if source in pair), None)
        if pair is None or self._frozen:
            return
        client, server = pair
        try:
            data = source.recv(65536)
            if data and source is server and self._lose_answer is not None:
                time.sleep(self._lose_answer)
                self._lose_answer = None
                data = b""
            if data and source is client and self._delay_request:
                self._delay_request = False
                self._late.append((server, data))
                self._pairs.remove(pair)
                client.shutdown(socket.SHUT_RDWR)
                client.close()
                return
            if data and source is client and self._cut_after is not None:
                self._cut_after -= len(data)
                if self._cut_after <= 0:
                    self._cut_after = None
                    data = b""
            if data:
                if source is client and data != FLUSH and not self._spoke.get(client):
                    self.round_trips += 1
                if data != FLUSH:
                    self._spoke[client] = source is client
                time.sleep(self.delay_s)
                (server if source is client else client).sendall(data)
                return
        except OSError:
            pass
        self._end(pair)

    def _end(self, pair: Pair) -> None:
        if pair in self._pairs:
            self._pairs.remove(pair)
        self._spoke.pop(pair[0], None)
        for one in pair:
            try:
                one.shutdown(socket.SHUT_RDWR)  # now, even while the other thread looks at it
            except OSError:
                pass
            one.close()
