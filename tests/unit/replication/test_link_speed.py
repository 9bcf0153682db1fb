"""How fast a link is, as the kernel counts: of a real TCP connection, read at a known pace."""

from __future__ import annotations

import socket
import threading
import time

from migration.replication.wire import Channel, Kind


def connection() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname()[:2])
        far, _ = listener.accept()
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    return near, far


def read_slowly(far: socket.socket, bytes_per_s: float) -> None:
    piece = 64 << 10
    while far.recv(piece, socket.MSG_WAITALL):
        time.sleep(piece / bytes_per_s)


def test_what_takes_its_time_is_slow_however_long_the_pauses_between() -> None:
    near, far = connection()
    reader = threading.Thread(target=read_slowly, args=(far, 20e6), daemon=True)
    reader.start()
    channel = Channel(near)
    assert channel.link_bytes_per_s() is None, "nothing has gone yet"
    rates = []
    for _ in range(5):
        channel.send(Kind.FRAME, b"x" * (2 << 20))
        time.sleep(0.2)  # as when the next frame is compressed
        rates.append(channel.link_bytes_per_s())
    near.shutdown(socket.SHUT_WR)
    reader.join()
    near.close()
    far.close()
    known = [rate for rate in rates if rate]
    assert known, rates
    assert sorted(known)[len(known) // 2] < 60e6


def test_there_is_no_speed_where_there_is_no_tcp() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert Channel(near).link_bytes_per_s() is None
