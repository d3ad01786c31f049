"""Uses what --isolate lets through, and says what it saw: that must be the same as natively."""
import errno, hashlib, os, select, socket, struct, sys, threading

ECHO, CLOSED, RESET, SINK, SPEAKER = 7101, 7102, 7103, 7104, 7105
SERVERS = ["203.0.113.9", "2001:db8::9"]


def name(code):
    return errno.errorcode.get(code, code) if code else "ok"


def family(ip):
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def read_all(s):
    parts = []
    while True:
        part = s.recv(1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)


def tcp():
    data = os.urandom(1 << 20) * 5
    for ip in SERVERS:
        s = socket.create_connection((ip, ECHO))
        print(ip, "peer", s.getpeername()[:2])
        received = []
        reader = threading.Thread(target=lambda: received.append(read_all(s)))
        reader.start()
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        reader.join()
        print(ip, "echoed after the half-close", hashlib.sha256(received[0]).digest() == hashlib.sha256(data).digest())
        s.close()
    with socket.socket(socket.AF_INET6) as s:
        s.connect(("::ffff:203.0.113.9", ECHO))
        s.sendall(b"mapped")
        print(s.getpeername()[:2])
        s.shutdown(socket.SHUT_WR)
        print(read_all(s))


def refused():
    for ip in SERVERS:
        with socket.socket(family(ip)) as s:
            print(ip, "blocking", name(s.connect_ex((ip, CLOSED))))
        with socket.socket(family(ip)) as s:
            s.setblocking(False)
            print(ip, "begun", name(s.connect_ex((ip, CLOSED))))
            poll = select.poll()
            poll.register(s, select.POLLOUT)
            print(ip, "polled", poll.poll(5000)[0][1])
            print(ip, "then", name(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
        # What was refused may be there a moment later.
        with socket.socket(family(ip)) as s:
            print(ip, "again", name(s.connect_ex((ip, ECHO))))


def nonblocking():
    for ip in SERVERS:
        with socket.socket(family(ip)) as s:
            s.setblocking(False)
            print(ip, name(s.connect_ex((ip, ECHO))))
            print(ip, bool(select.select([], [s], [], 5)[1]), name(s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
            print(ip, name(s.connect_ex((ip, ECHO))), name(s.connect_ex((ip, ECHO))))
            s.send(b"x")
            select.select([s], [], [], 5)
            print(ip, s.recv(10))


def reset():
    for ip in SERVERS:
        with socket.create_connection((ip, RESET)) as s:
            try:
                print(ip, read_all(s))
            except OSError as error:
                print(ip, name(error.errno))


def speaker():
    for ip in SERVERS:
        with socket.create_connection((ip, SPEAKER)) as s:
            text = read_all(s)
            print(ip, len(text), hashlib.sha256(text).hexdigest())


def crowd():
    results = []

    def one(number):
        ip = SERVERS[number % 2]
        with socket.create_connection((ip, ECHO)) as s:
            text = b"%d " % number * 1000
            s.sendall(text)
            s.shutdown(socket.SHUT_WR)
            results.append(read_all(s) == text)

    threads = [threading.Thread(target=one, args=[n]) for n in range(60)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    print(len(results), all(results))


def last_words():
    """The last bytes of a program that ends at once."""
    s = socket.create_connection((SERVERS[0], SINK))
    s.sendall(b"x" * 3_000_000)
    print("sent")


def udp():
    for ip in SERVERS:
        with socket.socket(family(ip), socket.SOCK_DGRAM) as s:
            s.settimeout(5)
            s.sendto(b"one", (ip, ECHO))
            print(ip, s.recvfrom(100)[0], "from", (ip, ECHO))
            s.sendto(b"y" * 20000, (ip, ECHO))
            print(ip, len(s.recv(65535)))
        with socket.socket(family(ip), socket.SOCK_DGRAM) as s:
            s.connect((ip, ECHO))
            print(ip, s.getpeername()[:2])
            for _ in range(100):
                os.write(s.fileno(), b"two")
                assert os.read(s.fileno(), 100) == b"two"
            s.sendmsg([b"th", b"ree"])
            print(ip, s.recv(100))
            s.send(b"")
            print(ip, s.recv(100))


def own():
    """Servers of the program's own."""
    for ip in ["127.0.0.1", "::1"]:
        with socket.create_server((ip, 0), family=family(ip)) as server:
            with socket.create_connection(server.getsockname()[:2]) as s:
                accepted, _ = server.accept()
                accepted.sendall(b"own")
                accepted.close()
                print(ip, read_all(s))
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as s:
        server.bind("own.sock")
        server.listen()
        s.connect("own.sock")
        server.accept()[0].send(b"unix")
        print(s.recv(10))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        server.bind("own.dgram")
        s.sendto(b"datagram", "own.dgram")
        print(server.recv(10))
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as s:
        server.bind("\0sockstrace-own")
        server.listen()
        s.connect("\0sockstrace-own")
        print("abstract")
    os.unlink("own.sock"), os.unlink("own.dgram")


def ids():
    print(os.getuid(), os.getgid(), os.getgroups(), os.getcwd(), sorted(os.environ.get("HOME", "")))
    if os.getuid() == 0:
        # An ordinary user's namespace has but his own id.
        print(os.stat("/etc/shadow").st_uid, os.stat(".").st_uid)
        try:
            os.chown(".", 1000, 1000), os.chown(".", 0, 0)
        except OSError as error:
            print(name(error.errno))  # in a container without such an id
    print(open("/proc/self/status").read().split("Uid:")[1].split("\n")[0])


def ended():
    if os.fork() == 0:
        os._exit(3)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
    sys.stdout.flush()
    os.kill(os.getpid(), 15)


globals()[sys.argv[1]]()
