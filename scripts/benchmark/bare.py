"""The floor in Python: ``python -m benchmark.bare SOCKET``.

An epoll loop without trio, tasks, timeouts or a handler, which decodes with trifcgi's own codec,
as anybody can use it by its events, and answers at once. It makes all params of a request, where
the server makes those that its handler asks for: with a handler that asks for none the server may
come close to it, or pass it.
"""

import select
import socket
import sys

from trifcgi.protocol import Connection, Side, StdinEnded

ANSWER = b"Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!"


def serve(path: str) -> None:
    """Answer all requests on that Unix socket, for ever."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(1024)
    listener.setblocking(False)
    listening = listener.fileno()
    epoll = select.epoll()
    epoll.register(listening, select.EPOLLIN)
    connections: dict[int, tuple[socket.socket, Connection]] = {}
    while True:
        for fd, _ in epoll.poll():
            if fd == listening:
                peer, _ = listener.accept()
                peer.setblocking(False)
                connections[peer.fileno()] = peer, Connection(Side.APPLICATION)
                epoll.register(peer, select.EPOLLIN)
                continue
            peer, connection = connections[fd]
            try:
                data = peer.recv(65536)
                for event in connection.receive_data(data):
                    if type(event) is StdinEnded:
                        connection.send_stdout(event.request_id, ANSWER)
                        connection.end_request(event.request_id)
                if connection.out_size:
                    peer.sendall(b"".join(connection.data_to_send()))
            except ConnectionError:
                data = b""
            if not data:
                epoll.unregister(fd)
                connections.pop(fd)[0].close()


if __name__ == "__main__":
    serve(sys.argv[1])
