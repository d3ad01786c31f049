"""What connections lead to, and a SOCKS5 proxy that passes on ends, resets and urgent data as they come.

services.py LOG FOLDER: services at 203.0.113.5 and 2001:db8::5: an echo at port 7; at 19 one that speaks first and
closes; at 20 one that resets; at 21 one that counts what it gets until the end, and then answers; at 22 one that
gets an urgent byte and gives one back; at 23 one that tells how earlier connections ended. Nobody is at port 9.

At port 80 a web server has a page whose script posts what it shows, and the files of FOLDER. By UDP there is an echo at port 7, one at 24 that answers from port 25 instead, and one at 26 that tells where a
datagram came from; what arrives at 27 goes to LOG.

The proxy: port 1080 of 203.0.113.9 and 2001:db8::9 without, port 1081 with any username and password, and
/tmp-like UNIX socket LOG.sock. What is asked of it goes to LOG, a line each: host, port, username, password. It
answers with code N for port 30000 + N; at 31000 it closes without an answer, at 31001 it speaks nonsense, at
31002 it says nothing. Port 1082 speaks HTTP CONNECT, with status N for port 30000 + N. All of them know the
names of NAMES.
"""

import http.server
import select
import socket
import struct
import sys
import threading

# What the proxies know, and nobody else.
NAMES = {
    "www.site.example": "203.0.113.5",
    "six.site.example": "2001:db8::5",
    "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion": "203.0.113.5",
}

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


def dial(host, port):
    """Connects to an address, or to a name of ours."""
    if not host.replace(".", "").isdigit() and ":" not in host:
        if host not in NAMES:
            raise OSError("no such name")
        host = NAMES[host]
    return socket.create_connection((host, port))


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
    if command == 3:
        note("associate", port, username, password)
        return associate(sock)
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
            upstream = dial(host, port)
        except ConnectionRefusedError:
            sock.sendall(b"\x05\x05" + reply)
        except OSError:
            sock.sendall(b"\x05\x04" + reply)
        else:
            sock.sendall(b"\x05\x00" + reply)
            join(sock, upstream)


def datagrams(address, port):
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind((address, port))
    return sock


def serve_datagrams(port, answer):
    # A socket for each address, so that answers come from where the question went.
    for family, address in ((socket.AF_INET, "203.0.113.5"), (socket.AF_INET6, "2001:db8::5")):
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind((address, port))

        def run(sock=sock):
            while True:
                data, peer = sock.recvfrom(65536)
                try:
                    answer(sock, data, peer)
                except OSError:
                    pass

        threading.Thread(target=run, daemon=True).start()


PAGE = b"""<!doctype html>
<html><head><title>Test</title></head><body><p id="text">A page of the test</p><script>
document.getElementById('text').textContent += ', with script';
const report = new XMLHttpRequest();
report.open('POST', '/report', false);
report.send(document.body.innerText);
</script></body></html>
"""


class Web(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments):
        super().__init__(*arguments, directory=sys.argv[2])

    def do_GET(self):
        note("http GET", self.path)
        if self.path == "/":
            self.answer(PAGE)
        else:
            super().do_GET()

    def do_POST(self):
        note("http POST", self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.answer(b"")

    def answer(self, content):
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class WebServer(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


fates = {}
decided = threading.Condition()


def fate(sock):
    """`w` and a number: notes how the connection ends, and after how many bytes; `h`: the same, but ends its own
    direction at once; `q`: tells what was noted."""
    what, number = exactly(sock, 1), exactly(sock, 8)
    if what == b"q":
        with decided:
            decided.wait_for(lambda: number in fates, 5)
            sock.sendall(fates.pop(number, b"nothing was noted"))
        return
    if what == b"h":
        sock.shutdown(socket.SHUT_WR)
    end, total = b"end", 0
    try:
        while data := sock.recv(1 << 16):
            total += len(data)
    except ConnectionResetError:
        end = b"reset"
    with decided:
        fates[number] = b"%s after %d" % (end, total) if end == b"end" else end
        decided.notify_all()


strange = datagrams("::", 25)


def answer_from_elsewhere(_, data, peer):
    host = peer[0] if ":" in peer[0] else "::ffff:" + peer[0]
    strange.sendto(b"from elsewhere: " + data, (host, peer[1]))


def associate(control):
    """UDP ASSOCIATE: datagrams from the client's host, until the connection ends."""
    own = control.getsockname()[0]
    client, relay, outer, stranger = None, datagrams(own, 0), datagrams("::", 0), datagrams(own, 0)
    # As many do: whatever address it says, the proxy's own is meant.
    control.sendall(b"\x05\x00\x00\x01\0\0\0\0" + struct.pack("!H", relay.getsockname()[1]))
    poll = select.poll()
    for sock in (control, relay, outer):
        poll.register(sock, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if control.fileno() in ready and not control.recv(100):
            break
        if relay.fileno() in ready:
            data, source = relay.recvfrom(65536)
            client = client or source
            if source == client and data[2] == 0:
                rest = data[4:]
                if data[3] == 1:
                    host, rest = socket.inet_ntoa(rest[:4]), rest[4:]
                elif data[3] == 4:
                    host, rest = socket.inet_ntop(socket.AF_INET6, rest[:16]), rest[16:]
                else:
                    host, rest = rest[1 : 1 + rest[0]].decode(), rest[1 + rest[0] :]
                    host = NAMES.get(host, "203.0.113.5")
                (port,) = struct.unpack("!H", rest[:2])
                host = host if ":" in host else "::ffff:" + host
                try:
                    outer.sendto(rest[2:], (host, port))
                except OSError:
                    pass
        if outer.fileno() in ready:
            data, (host, port, *_) = outer.recvfrom(65536)
            if host.startswith("::ffff:"):
                header = b"\0\0\0\1" + socket.inet_aton(host[7:])
            else:
                header = b"\0\0\0\4" + socket.inet_pton(socket.AF_INET6, host)
            # A stranger, a fragment and nonsense, none of which is to be heard.
            stranger.sendto(header + b"\0\x07stranger", client)
            relay.sendto(b"\0\0\1" + header[3:] + b"\0\x07fragment", client)
            relay.sendto(b"\0\0\0\3\xff", client)
            relay.sendto(header + struct.pack("!H", port) + data, client)
    for sock in (relay, outer, stranger):
        sock.close()


def tunnel(sock):
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
        upstream = dial(host.strip("[]"), int(port))
    except OSError:
        sock.sendall(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
    else:
        sock.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
        join(sock, upstream)


for port, service in [(7, echo), (19, speak_first), (20, reset), (21, count), (22, urgent), (23, fate)]:
    serve(listen(("::", port)), service)
serve_datagrams(7, lambda sock, data, peer: sock.sendto(data, peer))
serve_datagrams(24, answer_from_elsewhere)
serve_datagrams(27, lambda sock, data, peer: note("datagram", data))
serve_datagrams(26, lambda sock, data, peer: sock.sendto(b"%d" % peer[1], peer))
threading.Thread(target=WebServer(("::", 80), Web).serve_forever, daemon=True).start()
serve(listen(("::", 1080)), socks, False)
serve(listen(("::", 1081)), socks, True)
serve(listen(("::", 1082)), tunnel)
serve(listen(LOG + ".sock", socket.AF_UNIX), socks, False)
print("ready", flush=True)
threading.Event().wait()
