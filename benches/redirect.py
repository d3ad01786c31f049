#!/usr/bin/python3
"""What redirecting and inspecting cost: benches/redirect.py SOCKSTRACE [ROUNDS] [MIB] [microsocks|dante]

A download over loopback, setting a connection up, and small requests on one that stands, in a network namespace of
their own: direct; by a client that speaks SOCKS itself; the same with its handshake inspected, and isolated;
redirected by sockstrace; by torsocks, proxychains4 and redsocks (nftables sends its connections there). The proxy is
the same in all: dante, or microsocks, which copies a KiB at a time and hides what the rest costs. Ways take turns;
ratios are to the client that speaks SOCKS itself in the same round (above 1: better): their median and quartiles. As
root.
"""

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

SERVER, PROXY = ("203.0.113.5", 8000), ("203.0.113.9", 1080)
REDSOCKS = 12345
CONNECTS = 300
REQUESTS = 2000

CLIENT = r"""
import socket, struct, sys, time
how, what, amount = sys.argv[1], sys.argv[2], int(sys.argv[3])
server, proxy = ("203.0.113.5", 8000), ("203.0.113.9", 1080)
def connect():
    sock = socket.socket()
    if how != "socks":
        sock.connect(server)
        return sock
    sock.connect(proxy)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(b"\5\1\0")
    sock.recv(2, socket.MSG_WAITALL)
    sock.sendall(b"\5\1\0\1" + socket.inet_aton(server[0]) + struct.pack("!H", server[1]))
    sock.recv(10, socket.MSG_WAITALL)
    return sock
if what == "bulk":
    sock = connect()
    sock.sendall(b"%d\n" % amount)
    buffer = bytearray(1 << 18)
    start, left = time.perf_counter(), amount
    while left > 0:
        got = sock.recv_into(buffer)
        if not got:
            sys.exit("it ended early")
        left -= got
    print(time.perf_counter() - start)
elif what == "request":
    sock = connect()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    times = []
    for _ in range(amount):
        start = time.perf_counter()
        sock.sendall(b"100\n")
        sock.recv(100, socket.MSG_WAITALL)
        times.append(time.perf_counter() - start)
    times.sort()
    print(times[len(times) // 2])
else:
    times = []
    for _ in range(amount):
        start = time.perf_counter()
        sock = connect()
        times.append(time.perf_counter() - start)
        sock.close()
    times.sort()
    print(times[len(times) // 2])
"""


def serve():
    chunk = b"x" * (1 << 18)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(SERVER)
    listener.listen(4096)

    def one(sock):
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                line = b""
                while not line.endswith(b"\n"):
                    piece = sock.recv(100)
                    if not piece:
                        return
                    line += piece
                left = int(line)
                while left > 0:
                    left -= sock.send(chunk[: min(left, len(chunk))])
        except OSError:
            pass
        finally:
            sock.close()

    while True:
        sock, _ = listener.accept()
        threading.Thread(target=one, args=(sock,), daemon=True).start()


def wait_for(address):
    for _ in range(200):
        try:
            return socket.create_connection(address).close()
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nobody answers at {address}")


def main():
    program, rounds = os.path.abspath(sys.argv[1]), int((sys.argv + ["", "5"])[2] or 5)
    size = int(sys.argv[3]) << 20 if len(sys.argv) > 3 else 1 << 30
    if os.environ.get("INSIDE") != "1":
        os.environ["INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "-n", "--kill-child", "--fork", sys.executable, *sys.argv])
    for command in ("link set lo up", "addr add 203.0.113.5/32 dev lo", "addr add 203.0.113.9/32 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    directory = tempfile.mkdtemp()
    children = []

    def start(*words):
        children.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def write(name, text):
        path = os.path.join(directory, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    if (server := os.fork()) == 0:
        serve()
    if len(sys.argv) > 4 and sys.argv[4] == "microsocks":
        start("microsocks", "-i", PROXY[0], "-p", str(PROXY[1]))
    else:
        dante = write(
            "danted.conf",
            f"logoutput: /dev/null\ninternal: {PROXY[0]} port = {PROXY[1]}\nexternal: lo\nclientmethod: none\n"
            "socksmethod: none\nuser.privileged: root\nuser.unprivileged: nobody\n"
            "client pass { from: 0/0 to: 0/0 }\nsocks pass { from: 0/0 to: 0/0 }\n",
        )
        start("danted", "-f", dante)
    wait_for(SERVER)
    wait_for(PROXY)
    torsocks = write("torsocks.conf", f"TorAddress {PROXY[0]}\nTorPort {PROXY[1]}\n")
    chains = write("chains.conf", f"strict_chain\nquiet_mode\n[ProxyList]\nsocks5 {PROXY[0]} {PROXY[1]}\n")
    url = f"socks5://{PROXY[0]}:{PROXY[1]}"
    client = write("client.py", CLIENT)
    python = ["/usr/bin/python3", client]
    plain = [program, "--stack=never", "-o", "/dev/null", f"--proxy={url}"]
    trace = [*plain, "--on-leak=redirect"]
    inspect = [*plain, "--socks-auth=any"]
    ways = {
        "direct": python + ["direct"],
        "socks client": python + ["socks"],
        "sockstrace": [*trace, "--backend=seccomp", *python, "direct"],
        "sockstrace, ptrace": [*trace, "--backend=ptrace", *python, "direct"],
        "inspected": [*inspect, "--backend=seccomp", *python, "socks"],
        "inspected, ptrace": [*inspect, "--backend=ptrace", *python, "socks"],
        "isolated": [*plain, "--isolate", *python, "socks"],
        "torsocks": ["env", f"TORSOCKS_CONF_FILE={torsocks}", "torsocks", *python, "direct"],
        "proxychains4": ["proxychains4", "-q", "-f", chains, *python, "direct"],
    }
    if shutil.which("redsocks") and shutil.which("nft"):
        redsocks = write(
            "redsocks.conf",
            "base { log_info = off; log_debug = off; daemon = off; redirector = iptables; }\n"
            f"redsocks {{ local_ip = 127.0.0.1; local_port = {REDSOCKS}; ip = {PROXY[0]}; port = {PROXY[1]}; "
            "type = socks5; }\n",
        )
        start("redsocks", "-c", redsocks)
        wait_for(("127.0.0.1", REDSOCKS))
        # What this group sends goes to redsocks.
        rules = (
            "add table ip t; add chain ip t o { type nat hook output priority -100; }; "
            f"add rule ip t o meta skgid 65533 ip daddr {SERVER[0]} tcp dport {SERVER[1]} redirect to :{REDSOCKS}"
        )
        if subprocess.run(["nft", rules], check=False).returncode == 0:
            ways["redsocks"] = ["setpriv", "--regid=65533", "--clear-groups", *python, "direct"]
    results = {}
    for what, amount in (("bulk", size), ("connect", CONNECTS), ("request", REQUESTS)):
        for turn in range(rounds):
            for way, words in ways.items():
                run = subprocess.run([*words, what, str(amount)], capture_output=True, text=True, check=False)
                # Of whoever failed in a round, that round doesn't count.
                try:
                    seconds = float(run.stdout.split()[0])
                    results.setdefault((what, way), {})[turn] = seconds
                except (IndexError, ValueError):
                    print(f"{what} {way} failed: {run.stderr.strip()[-300:]}", file=sys.stderr)
    for child in children:
        child.terminate()
    os.kill(server, signal.SIGKILL)
    shutil.rmtree(directory)
    for what, unit in (("bulk", "MiB/s"), ("connect", "µs"), ("request", "µs")):
        print(f"{what:22}{unit:>10}  ratio")
        base = results.get((what, "socks client"), {})
        for way in ways:
            own = results.get((what, way), {})
            if not own:
                print(f"  {way:20}    failed")
                continue
            median = statistics.median(own.values())
            shown = size / (1 << 20) / median if what == "bulk" else median * 1e6
            ratios = [base[turn] / value for turn, value in own.items() if turn in base]
            if len(ratios) < 2:
                print(f"  {way:20}{shown:10.0f}")
                continue
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"  {way:20}{shown:10.0f}  {middle:5.2f} ({low:.2f} to {high:.2f})")


main()
