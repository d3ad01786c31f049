"""What connections lead to, and a SOCKS5 proxy that passes on ends, resets and urgent data as they come.

services.py LOG: services at 203.0.113.5 and 2001:db8::5: an echo at port 7; at 19 one that speaks first and
closes; at 20 one that resets; at 21 one that counts what it gets until the end, and then answers; at 22 one that
gets an urgent byte and gives one back. Nobody is at port 9.

The proxy: port 1080 of 203.0.113.9 and 2001:db8::9 without, port 1081 with any username and password, and
/tmp-like UNIX socket LOG.sock. What is asked of it goes to LOG, a line each: host, port, username, password. It
answers with code N for port 30000 + N; at 31000 it closes without an answer, at 31001 it speaks nonsense, at
31002 it says nothing. Port 1082 speaks HTTP CONNECT, with status N for port 30000 + N.
"""

import select
import socket
import struct
import sys
import threading

LOG = sys.argv[1]
RESET = struct.pack("ii", 1, 0)


def listen(address, family=socket.AF_INET6):
    listener = socket.socket(family)
    if family != socket.AF_UNIX:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(4096)
    return listener


def serve(listener, service, *arguments):
    def run(sock):
        try:
            service(sock, *arguments)
        except OSError:
            pass
        finally:
            sock.close()

    def loop():
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=run, args=(sock,), daemon=True).start()

    threading.Thread(target=loop, daemon=True).start()


def echo(sock):
    while data := sock.recv(1 << 16):
        sock.sendall(data)


def speak_first(sock):
    sock.sendall(b"220 welcome\r\n")


def reset(sock):
    sock.recv(10)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def count(sock):
    total = 0
    while data := sock.recv(1 << 16):
        total += len(data)
    sock.sendall(b"%d" % total)


def urgent(sock):
    poll = select.poll()
    poll.register(sock, select.POLLPRI)
    if poll.poll(5000):
        byte = sock.recv(1, socket.MSG_OOB)
        sock.sendall(byte)
        sock.send(b"?", socket.MSG_OOB)
    while sock.recv(1 << 16):
        pass


def exactly(sock, length):
    data = b""
    while len(data) < length:
        piece = sock.recv(length - len(data))
        if not piece:
            raise OSError("ended")
        data += piece
    return data


def join(one, other):
    """Passes bytes on in both directions until both have ended."""

    def end(source, target):
        try:
            target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        finally:
            target.close()
            source.close()

    poll = select.poll()
    for sock in (one, other):
        poll.register(sock, select.POLLIN | select.POLLPRI)
    peers, socks = {one.fileno(): other, other.fileno(): one}, {one.fileno(): one, other.fileno(): other}
    while peers:
        for fd, event in poll.poll():
            source, target = socks[fd], peers.get(fd)
            if target is None:
                continue
            try:
                if event & select.POLLPRI and event & ~select.POLLPRI == 0:
                    target.send(source.recv(1, socket.MSG_OOB), socket.MSG_OOB)
                    # It stays ready until something follows.
                    poll.modify(source, select.POLLIN)
                    continue
                data = source.recv(1 << 16)
                if data:
                    target.sendall(data)
                else:
                    target.shutdown(socket.SHUT_WR)
                    del peers[fd]
                    poll.unregister(source)
            except OSError:
                return end(source, target)
    one.close()
    other.close()


lock = threading.Lock()


def note(*words):
    with lock, open(LOG, "a") as log:
        log.write(" ".join(word.decode("latin-1") if isinstance(word, bytes) else str(word) for word in words) + "\n")


def socks(sock, wants_password):
    version, count_of_methods = exactly(sock, 2)
    method = 2 if wants_password else 0
    # Whoever speaks something else may have sent less than a count of methods that isn't one.
    if version != 5 or method not in exactly(sock, count_of_methods):
        sock.sendall(b"\x05\xff")
        return
    sock.sendall(bytes([5, method]))
    username = password = b"-"
    if wants_password:
        exactly(sock, 1)
        username = exactly(sock, exactly(sock, 1)[0])
        password = exactly(sock, exactly(sock, 1)[0])
        sock.sendall(b"\x01\x00" if username != b"wrong" else b"\x01\x01")
    _, command, _, kind = exactly(sock, 4)
    if kind == 1:
        host = socket.inet_ntoa(exactly(sock, 4))
    elif kind == 4:
        host = socket.inet_ntop(socket.AF_INET6, exactly(sock, 16))
    else:
        host = exactly(sock, exactly(sock, 1)[0]).decode()
    (port,) = struct.unpack("!H", exactly(sock, 2))
    note(host, port, username, password)
    reply = b"\x00\x01" + socket.inet_aton("192.0.2.99") + b"\x10\x00"
    if port == 31001:
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    elif port == 31002:
        sock.recv(1)
    elif 30000 <= port < 30256:
        sock.sendall(bytes([5, port - 30000]) + reply)
    elif port != 31000:
        try:
            upstream = socket.create_connection((host, port))
        except ConnectionRefusedError:
            sock.sendall(b"\x05\x05" + reply)
        except OSError:
            sock.sendall(b"\x05\x04" + reply)
        else:
            sock.sendall(b"\x05\x00" + reply)
            join(sock, upstream)


def http(sock):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exactly(sock, 1)
    method, target, _ = head.split(b"\r\n")[0].split(b" ")
    host, port = target.decode().rsplit(":", 1)
    note(host, port, method)
    if 30000 <= int(port) < 31000:
        sock.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % (int(port) - 30000))
        return
    try:
        upstream = socket.create_connection((host.strip("[]"), int(port)))
    except OSError:
        sock.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
    else:
        sock.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
        join(sock, upstream)


for port, service in [(7, echo), (19, speak_first), (20, reset), (21, count), (22, urgent)]:
    serve(listen(("::", port)), service)
serve(listen(("::", 1080)), socks, False)
serve(listen(("::", 1081)), socks, True)
serve(listen(("::", 1082)), http)
serve(listen(LOG + ".sock", socket.AF_UNIX), socks, False)
print("ready", flush=True)
threading.Event().wait()
