"""What a program can see of its connections. Each case prints what it saw; the test compares a native run
with a redirected one, line by line.

cases.py NAME... runs these, without a name all. The world is that of services.py: 203.0.113.5 and
2001:db8::5, as seen from 198.51.100.1 and 2001:db8:1::1 on veth0.
"""

import array
import errno
import hashlib
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

V4, V6, MAPPED = "203.0.113.5", "2001:db8::5", "::ffff:203.0.113.5"
ECHO, FIRST, RESET, COUNT, URGENT, FATE, NOBODY = 7, 19, 20, 21, 22, 23, 9
AF_UNSPEC = b"\0" * 16


def name(number):
    return errno.errorcode.get(number, number)


def tcp(family=socket.AF_INET, nonblocking=False):
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(None)
    if nonblocking:
        sock.setblocking(False)
    return sock


def attempt(call, *arguments):
    try:
        return call(*arguments)
    except OSError as error:
        return name(error.errno)


def events(sock, milliseconds=5000, interest=select.POLLIN | select.POLLOUT | select.POLLRDHUP):
    poll = select.poll()
    poll.register(sock, interest)
    return [event for _, event in poll.poll(milliseconds)]


def ends(sock):
    """Who the socket says its ends are, without what differs from run to run."""
    local = attempt(sock.getsockname)
    if isinstance(local, tuple):
        local = (local[0], "port" if local[1] else 0) + local[2:]
    return attempt(sock.getpeername), local


def echo(sock, data=b"hello"):
    sock.setblocking(True)
    sock.sendall(data)
    got = b""
    while len(got) < len(data):
        piece = sock.recv(65536)
        if not piece:
            break
        got += piece
    return got == data or got


def unspec(sock):
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    return name(ctypes.get_errno()) if libc.connect(sock.fileno(), AF_UNSPEC, 16) else 0


FAMILIES = [(socket.AF_INET, V4), (socket.AF_INET6, V6), (socket.AF_INET6, MAPPED)]


def case_blocking():
    for family, address in FAMILIES:
        sock = tcp(family)
        print(address, attempt(sock.connect, (address, ECHO)), ends(sock), echo(sock))
        print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), attempt(sock.connect, (address, ECHO)))


def case_blocking_refused():
    for family, address in FAMILIES:
        sock = tcp(family)
        print(address, sock.connect_ex((address, NOBODY)) and "refused", ends(sock)[0])
        print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), events(sock, 0))
        print("again", name(sock.connect_ex((address, NOBODY))), "then", sock.connect_ex((address, ECHO)), echo(sock))


def case_nonblocking():
    for family, address in FAMILIES:
        sock = tcp(family, True)
        epoll = select.epoll()
        epoll.register(sock, select.EPOLLOUT | select.EPOLLIN | select.EPOLLET)
        epoll.poll(0)
        twin = sock.dup()
        print(address, name(sock.connect_ex((address, ECHO))))
        print([event for _, event in epoll.poll(5)], events(twin))
        print(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), ends(twin))
        print(sock.connect_ex((address, ECHO)), name(sock.connect_ex((address, ECHO))), echo(twin))


def case_nonblocking_refused():
    for family, address in FAMILIES:
        sock = tcp(family, True)
        print(address, name(sock.connect_ex((address, NOBODY))))
        print(events(sock), ends(sock)[0])
        print([name(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) for _ in range(2)])
        print(name(sock.connect_ex((address, NOBODY))), name(sock.connect_ex((address, ECHO))))
        print(events(sock), echo(sock))


def case_nonblocking_refused_told_by_connect():
    sock = tcp(nonblocking=True)
    print(name(sock.connect_ex((V4, NOBODY))), events(sock))
    print(name(sock.connect_ex((V4, NOBODY))))
    print(name(sock.connect_ex((V4, NOBODY))), events(sock))


def case_timeout_of_the_language():
    for port in (ECHO, NOBODY):
        sock = tcp()
        sock.settimeout(5)
        print(name(sock.connect_ex((V4, port))))


def case_bad_arguments():
    print(attempt(tcp(socket.AF_INET).connect, ("224.0.0.1", 7)))
    sock = tcp(socket.AF_INET6)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    print("v6only", attempt(sock.connect, (MAPPED, ECHO)), attempt(sock.connect, (V6, ECHO)), echo(sock))
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    four = struct.pack("=H", socket.AF_INET) + struct.pack("!H", ECHO) + socket.inet_aton(V4) + b"\0" * 20
    six = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", ECHO, 0)
    six += socket.inet_pton(socket.AF_INET6, V6) + b"\0" * 4
    for family, address, length in [
        (socket.AF_INET6, four, 28),
        (socket.AF_INET, six, 28),
        (socket.AF_INET, four, 15),
        (socket.AF_INET, four, 8),
        (socket.AF_INET6, six, 23),
        (socket.AF_INET6, six, 24),
    ]:
        sock = tcp(family)
        result = libc.connect(sock.fileno(), address, length)
        print(family, length, result and name(ctypes.get_errno()))
    listener = tcp()
    listener.bind(("0.0.0.0", 0))
    listener.listen()
    print("listening", attempt(listener.connect, (V4, ECHO)))


def case_bound_before():
    for family, address, local in [
        (socket.AF_INET, V4, ("198.51.100.1", 0)),
        (socket.AF_INET, V4, ("0.0.0.0", 4501)),
        (socket.AF_INET6, V6, ("2001:db8:1::1", 4502)),
        (socket.AF_INET6, MAPPED, ("::", 4503)),
    ]:
        sock = tcp(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(local)
        port = sock.getsockname()[1]
        print(attempt(sock.connect, (address, ECHO)), sock.getsockname()[1] == port, ends(sock), echo(sock))


def case_dissolved():
    sock = tcp()
    sock.connect((V4, ECHO))
    print(echo(sock), unspec(sock), ends(sock)[0])
    print(attempt(sock.connect, (V4, ECHO)), ends(sock), echo(sock))


def case_half_closed():
    sock = tcp()
    sock.connect((V4, COUNT))
    sock.sendall(b"x" * 100000)
    sock.shutdown(socket.SHUT_WR)
    print(sock.recv(100), sock.recv(100), attempt(sock.send, b"x"), ends(sock))
    sock = tcp()
    sock.connect((V4, ECHO))
    sock.shutdown(socket.SHUT_RD)
    print(sock.recv(10), attempt(sock.send, b"x"))


def case_speaks_first():
    for family, address in FAMILIES:
        sock = tcp(family)
        sock.connect((address, FIRST))
        text = b""
        while piece := sock.recv(1000):
            text += piece
        print(text, events(sock, 1000), ends(sock))


def case_reset_by_peer():
    sock = tcp()
    sock.connect((V4, RESET))
    sock.sendall(b"go")
    print(attempt(sock.recv, 10), attempt(sock.recv, 10), ends(sock)[0])


def case_reset_by_us():
    sock = tcp()
    sock.connect((V4, ECHO))
    print(echo(sock))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def fate(end, kind=b"w"):
    """What the other side sees of an end."""
    number = os.urandom(8)
    sock = tcp()
    sock.connect((V4, FATE))
    sock.sendall(kind + number)
    end(sock)
    sock.close()
    asking = tcp()
    asking.connect((V4, FATE))
    asking.sendall(b"q" + number)
    return asking.recv(100)


def case_reset_and_other_ends():
    print("closed", fate(lambda sock: sock.sendall(b"x" * 70000)))
    print("shut", fate(lambda sock: (sock.sendall(b"x"), sock.shutdown(socket.SHUT_WR), sock.recv(1))))
    linger = struct.pack("ii", 1, 0)
    print("reset", fate(lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)))
    print("dissolved", fate(lambda sock: unspec(sock)))
    print("half", fate(lambda sock: (print(sock.recv(1)), sock.sendall(b"y" * 90000)), b"h"))


def case_bulk():
    sock = tcp()
    sock.connect((V4, ECHO))
    data = os.urandom(1 << 20) * 8
    digest = hashlib.sha256()

    def receive():
        left = len(data)
        while left:
            piece = sock.recv(1 << 16)
            if not piece:
                break
            digest.update(piece)
            left -= len(piece)

    thread = threading.Thread(target=receive)
    thread.start()
    sock.sendall(data)
    thread.join()
    print(digest.digest() == hashlib.sha256(data).digest())


def case_passed_on():
    left, right = socket.socketpair()
    sock = tcp()
    sock.connect((V4, ECHO))
    pid = os.fork()
    if pid == 0:
        _, ancillary, _, _ = right.recvmsg(1, socket.CMSG_SPACE(4))
        got = socket.socket(fileno=array.array("i", ancillary[0][2])[0])
        inherited = sock
        print(ends(got), ends(inherited), echo(got), flush=True)
        os._exit(0)
    left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))])
    os.waitpid(pid, 0)
    duplicate = os.dup(sock.fileno())
    other = socket.socket(fileno=duplicate)
    print(ends(other), echo(other))


def case_fast_open():
    for nonblocking in (False, True):
        sock = tcp(nonblocking=nonblocking)
        sent = attempt(sock.sendto, b"hello", socket.MSG_FASTOPEN, (V4, ECHO))
        if sent == "EINPROGRESS":
            events(sock, 5000, select.POLLOUT)
            sent = sock.send(b"hello")
        sock.setblocking(True)
        print(sent, sock.recv(100), ends(sock))
    sock = tcp()
    print("refused", attempt(sock.sendto, b"hello", socket.MSG_FASTOPEN, (V4, NOBODY)))


def case_fast_open_connect():
    sock = tcp()
    sock.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
    print(attempt(sock.connect, (V4, ECHO)), echo(sock), ends(sock))


def case_peer_option():
    sock = tcp()
    sock.connect((V4, ECHO))
    SO_PEERNAME = 28
    print(sock.getsockopt(socket.SOL_SOCKET, SO_PEERNAME, 16)[:8])
    print(attempt(sock.getsockopt, socket.SOL_SOCKET, SO_PEERNAME, 64))


def case_short_names():
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    sock = tcp()
    sock.connect((V4, ECHO))
    for room in (0, 4, 8, 16, 100, -1):
        buffer, length = ctypes.create_string_buffer(b"\xff" * 100, 100), ctypes.c_int(room)
        result = libc.getpeername(sock.fileno(), buffer, ctypes.byref(length))
        print(room, result and name(ctypes.get_errno()), length.value, buffer.raw[:20])
    print(libc.getpeername(sock.fileno(), None, ctypes.byref(ctypes.c_int(16))), name(ctypes.get_errno()))
    print(libc.getpeername(sock.fileno(), None, None), name(ctypes.get_errno()))


def case_interrupted():
    hits = []
    signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    for _ in range(30):
        for _ in range(5):
            sock = tcp()
            try:
                print(attempt(sock.connect, (V4, ECHO)), echo(sock))
                break
            except BrokenPipeError:
                # A signal that comes before a held call is received has it return EINTR, with nothing begun.
                sock.close()
    signal.setitimer(signal.ITIMER_REAL, 0)


def case_threads():
    results = []

    def run():
        sock = tcp()
        results.append((attempt(sock.connect, (V4, ECHO)), echo(sock)))

    threads = [threading.Thread(target=run) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(set(results), len(results))


def case_many():
    poll, socks = select.epoll(), {}
    for _ in range(300):
        sock = tcp(nonblocking=True)
        if (error := sock.connect_ex((V4, ECHO))) not in (0, errno.EINPROGRESS):
            print(name(error))
        socks[sock.fileno()] = sock
        poll.register(sock, select.EPOLLOUT)
    waiting = set(socks)
    end = time.monotonic() + 20
    while waiting and time.monotonic() < end:
        for fd, _ in poll.poll(1):
            waiting.discard(fd)
            poll.modify(fd, 0)
    print(len(waiting), {sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for sock in socks.values()})
    print({echo(sock) for sock in socks.values()})


def case_urgent():
    sock = tcp()
    sock.connect((V4, URGENT))
    sock.send(b"before")
    print(sock.send(b"!", socket.MSG_OOB))
    # The service names the urgent byte, and sends one back.
    print(sock.recv(1), events(sock, 5000, select.POLLPRI), attempt(sock.recv, 1, socket.MSG_OOB))
    sock.shutdown(socket.SHUT_WR)
    print(sock.recv(10))


def case_closed_while_connecting():
    for _ in range(20):
        sock = tcp(nonblocking=True)
        sock.connect_ex((V4, ECHO))
        sock.close()
    sock = tcp()
    print(attempt(sock.connect, (V4, ECHO)), echo(sock))


def case_asyncio():
    import asyncio

    async def main():
        async def one(host, port):
            try:
                reader, writer = await asyncio.open_connection(host, port)
            except OSError as error:
                return type(error).__name__, name(error.errno)
            writer.write(b"ping")
            data = await reader.readexactly(4)
            peer = writer.get_extra_info("peername")
            writer.close()
            return data, peer

        print(await asyncio.gather(*[one(V4, ECHO), one(V6, ECHO), one(V4, NOBODY), one(V6, NOBODY)]))

    asyncio.run(main())


def udp(family=socket.AF_INET):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(5)
    return sock


def case_udp_by_destination():
    for family, address in FAMILIES:
        sock = udp(family)
        print(address, attempt(sock.sendto, b"one", (address, ECHO)), sock.recvfrom(100))
        print(sock.sendmsg([b"t", b"wo"], [], 0, (address, ECHO)), sock.recvmsg(100)[0::3])
        print(attempt(sock.getpeername), sock.getsockname()[0])
        buffer = bytearray(3)
        sock.sendto(b"longer", (address, ECHO))
        length, _, flags, peer = sock.recvmsg_into([buffer])
        print(length, bytes(buffer), flags & socket.MSG_TRUNC != 0, peer)
        print(sock.sendto(b"", (address, ECHO)), sock.recvfrom(10))


def case_udp_connected():
    for family, address in FAMILIES:
        sock = udp(family)
        print(address, attempt(sock.connect, (address, ECHO)), ends(sock))
        print(sock.send(b"hello"), sock.recv(10), sock.send(b"again"), sock.recvfrom(10))
        os.write(sock.fileno(), b"written")
        print(events(sock, 5000, select.POLLIN), os.read(sock.fileno(), 10))
        # Somebody else's answer isn't heard.
        print(sock.sendto(b"x", (address, 24)), events(sock, 300, select.POLLIN))
        print(unspec(sock), attempt(sock.getpeername), attempt(sock.send, b"x"))


def case_udp_strangers_answer():
    for address, family in ((V4, socket.AF_INET), (V6, socket.AF_INET6)):
        sock = udp(family)
        sock.bind(("0.0.0.0" if family == socket.AF_INET else "::", 0))
        sock.sendto(b"hello", (address, 24))
        try:
            data, peer = sock.recvfrom(100)
            print(data, peer[1])
        except OSError as error:
            print(error)


def case_udp_one_address_for_all():
    sock = udp()
    ports = set()
    for _ in range(3):
        sock.sendto(b"?", (V4, 26))
        ports.add(sock.recv(10))
    other = udp()
    other.sendto(b"?", (V4, 26))
    print(len(ports), other.recv(10) in ports)


def case_udp_many():
    socks = [udp() for _ in range(40)]
    for number, sock in enumerate(socks):
        sock.sendto(b"%d" % number, (V4, ECHO))
    print([int(sock.recv(10)) for sock in socks] == list(range(40)))
    sock = udp()
    sock.connect((V4, ECHO))
    got = 0
    for number in range(500):
        sock.send(b"%d" % number)
        got += sock.recv(10) == b"%d" % number
    print(got)


def case_udp_batches():
    import ctypes

    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]

    class Message(ctypes.Structure):
        _fields_ = [("name", ctypes.c_char_p), ("name_length", ctypes.c_uint32), ("vectors", ctypes.c_void_p),
                    ("count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                    ("flags", ctypes.c_long), ("length", ctypes.c_uint32)]

    libc = ctypes.CDLL(None, use_errno=True)
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", ECHO) + socket.inet_aton(V4) + b"\0" * 8
    vectors = [Vector(b"batch%d" % number, 6) for number in range(5)]
    messages = (Message * 5)(*[Message(address, 16, ctypes.addressof(vector), 1) for vector in vectors])
    sock = udp()
    print(libc.sendmmsg(sock.fileno(), messages, 5, 0), [message.length for message in messages])
    print(sorted(sock.recvfrom(100) for _ in range(5)))


# What follows is run by tests of its own, and only by name.


def only_errors():
    port = int(os.environ["PORT"])
    sock = tcp()
    print(name(sock.connect_ex((V4, port))), ends(sock)[0], sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    failed = select.POLLIN | select.POLLOUT | select.POLLERR | select.POLLHUP | select.POLLRDHUP
    for told_by_connect in (False, True):
        sock = tcp(nonblocking=True)
        begun = name(sock.connect_ex((V4, port)))
        events(sock)
        # Who looks while the kernel ends a connection sees but a part of that.
        time.sleep(0.02)
        print(begun, events(sock) == [failed], end=" ")
        if told_by_connect:
            print(name(sock.connect_ex((V4, port))), name(sock.connect_ex((V4, port))))
        else:
            print(*[name(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) for _ in range(2)])


def only_silence():
    port = int(os.environ["PORT"])
    sock = tcp(nonblocking=True)
    print(name(sock.connect_ex((V4, port))), events(sock, 100), name(sock.connect_ex((V4, port))))
    sock = tcp()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 300000))
    start = time.monotonic()
    print(name(sock.connect_ex((V4, port))), 0.2 < time.monotonic() - start < 3)
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    # Without SA_RESTART, and without Python's own repetition.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    sock = tcp()
    address = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(V4) + b"\0" * 8
    print(libc.connect(sock.fileno(), address, 16) and name(ctypes.get_errno()))
    sock = tcp()
    sock.settimeout(0.3)
    try:
        sock.connect((V4, port))
    except TimeoutError as error:
        print(error)


def only_credentials():
    one, two = tcp(), tcp()
    print(attempt(one.connect, (V4, ECHO)))
    print(attempt(two.connect, (V4, FIRST)), flush=True)
    if os.fork() == 0:
        print(attempt(tcp().connect, (V4, ECHO)), flush=True)
        os._exit(0)
    os.wait()


def only_names():
    """Names that nobody but the proxy knows: the first is resolved by the C library."""
    for host in sys.argv[2:]:
        try:
            sock = socket.create_connection((host, ECHO))
        except OSError as error:
            print(host, name(error.errno))
            continue
        address = sock.getpeername()[0]
        pool = address.startswith(("198.18.", "198.19.", "fd73:6f63:6b73:"))
        print(host, pool, address in [info[4][0] for info in socket.getaddrinfo(host, ECHO)], echo(sock), end=" ")
        print(socket.getnameinfo(sock.getpeername(), 0)[0])
    # The pool is never let out, whether an address of it was given or not.
    for family, address in ((socket.AF_INET, "198.19.250.7"), (socket.AF_INET6, "fd73:6f63:6b73::1:7")):
        print(address, attempt(tcp(family).connect, (address, ECHO)))
    for host, family in (("www.site.example", socket.AF_INET), ("www.site.example", socket.AF_INET6)):
        address = socket.getaddrinfo(host, ECHO, family, socket.SOCK_STREAM)[0][4]
        sock = tcp(family)
        print(family.name, attempt(sock.connect, address), sock.getpeername()[0] == address[0], echo(sock))
    address = socket.getaddrinfo("www.site.example", ECHO, socket.AF_INET, socket.SOCK_DGRAM)[0][4]
    sock = udp()
    if attempt(sock.sendto, b"x", address) == 1:
        print("datagram", sock.recvfrom(10) == (b"x", address))


def only_not_connections():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    print("udp", attempt(sock.sendto, b"x", (V4, 7)))
    print("udp connect", attempt(sock.connect, (V4, 7)))
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    print("mptcp", attempt(sock.connect, (V4, ECHO)))


def only_multicast():
    sock = udp()
    print(attempt(sock.sendto, b"x", ("224.0.0.251", 5353)), attempt(sock.sendto, b"x", ("255.255.255.255", 9)))
    print(attempt(sock.sendto, b"x", (V4, 0)), attempt(sock.sendto, b"x", (V4, ECHO)), sock.recvfrom(10))


def only_udp_ends():
    sock = udp()
    sock.sendto(b"last words", (V4, 27))


def only_udp_isolated():
    for _ in range(2):
        sock = udp()
        sock.connect((V4, ECHO))
        print(sock.send(b"x"), sock.recv(10), sock.getpeername())


def only_sends_and_ends():
    sock = tcp()
    sock.connect((V4, ECHO))
    sock.sendall(b"x" * (4 << 20))


def only_stays():
    sock = tcp()
    sock.connect((V4, ECHO))
    print("connected", echo(sock), flush=True)
    print("connected", flush=True)
    time.sleep(1)
    for _ in range(50):
        if attempt(sock.send, b"x") != 1:
            break
        time.sleep(0.02)
    else:
        print("still", flush=True)


def only_waits():
    print("waits", flush=True)
    while attempt(tcp().connect, (V4, int(os.environ["PORT"]))):
        time.sleep(0.01)
    print("connected", flush=True)


def only_gives_up():
    for _ in range(40):
        sock = tcp(nonblocking=True)
        sock.connect_ex((V4, int(os.environ["PORT"])))
        sock.close()
    # The same port, at once, for elsewhere: who has given up is not taken for who comes then.
    for _ in range(40):
        for port in (int(os.environ["PORT"]), ECHO):
            sock = tcp(nonblocking=port != ECHO)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.bind(("0.0.0.0", 4510))
            if sock.connect_ex((V4, port)) == 0 and not echo(sock):
                print("crossed")
            sock.close()
    print("given up", flush=True)
    time.sleep(4)


def only_isolated():
    sock = tcp()
    print(attempt(sock.connect, (V4, ECHO)), sock.getpeername(), echo(sock))
    sock = tcp(nonblocking=True)
    print(name(sock.connect_ex((V4, NOBODY))), events(sock) and name(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))


def main():
    cases = {key[5:]: value for key, value in globals().items() if key.startswith("case_")}
    wanted_cases = sys.argv[1:2] if sys.argv[1:2] == ["names"] else sys.argv[1:] or cases
    for wanted in wanted_cases:
        print(f"-- {wanted}")
        (cases.get(wanted) or globals()[f"only_{wanted}"])()
        sys.stdout.flush()


main()
