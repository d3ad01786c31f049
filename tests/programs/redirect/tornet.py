"""A Tor network of its own, of Debian's tor alone: tornet.py DIR

Three directory authorities, which are relays and exits too, four more relays, a client with SocksPort 203.0.113.9:9050 and an onion
service in front of ports 7 (an echo) and 80 of 203.0.113.5. Once connections get through, the service's name is printed. All of it
is on 203.0.113.9, and ends with this program.
"""

import atexit
import os
import re
import socket
import subprocess
import sys
import time

DIR, HOST = sys.argv[1], "203.0.113.9"
AUTHORITIES, RELAYS, ECHO, SOCKS = 3, 4, ("203.0.113.5", 7), 9050
COMMON = f"""
TestingTorNetwork 1
Address {HOST}
AssumeReachable 1
PathsNeededToBuildCircuits 0.25
TestingV3AuthInitialVotingInterval 10
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
V3AuthVotingInterval 10
V3AuthVoteDelay 2
V3AuthDistDelay 2
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
TestingMinExitFlagThreshold 0
MinUptimeHidServDirectoryV2 0
DisableDebuggerAttachment 0
SafeLogging 0
UseEntryGuards 0
"""
children = []


def stop():
    for child in children:
        child.kill()
    for child in children:
        child.wait()


def ports(number):
    return 9101 + 10 * number, 9102 + 10 * number  # OR, directory


def make_keys(number):
    home = os.path.join(DIR, f"authority{number}")
    keys = os.path.join(home, "keys")
    os.makedirs(keys, mode=0o700)
    os.chmod(home, 0o700)
    _, directory = ports(number)
    subprocess.run(
        ["tor-gencert", "--create-identity-key", "--passphrase-fd", "0", "-m", "12", "-a", f"{HOST}:{directory}"],
        cwd=keys, input=b"none\n", check=True, capture_output=True,
    )
    with open(os.path.join(keys, "authority_certificate")) as file:
        v3ident = re.search(r"^fingerprint ([0-9A-F]+)", file.read(), re.M)[1]
    or_port, directory = ports(number)
    listed = subprocess.run(
        ["tor", "--quiet", "--list-fingerprint", "--defaults-torrc", "/nonexistent", "--ignore-missing-torrc", "-f",
         "/nonexistent", "--DataDirectory", home, "--ORPort", str(or_port), "--Nickname", f"a{number}",
         "--DirAuthority", f"x {HOST}:{directory} {'0' * 40}"],
        check=True, capture_output=True, text=True,
    )
    fingerprint = listed.stdout.split(maxsplit=1)[1].strip().replace(" ", "")
    return home, f"DirAuthority a{number} orport={or_port} no-v2 v3ident={v3ident} {HOST}:{directory} {fingerprint}\n"


def start(name, text):
    torrc = os.path.join(DIR, f"{name}.torrc")
    with open(torrc, "w") as file:
        file.write(text)
    log = open(os.path.join(DIR, f"{name}.log"), "w")
    children.append(
        subprocess.Popen(["tor", "--defaults-torrc", "/nonexistent", "-f", torrc], stdout=log, stderr=log)
    )


def gets_through(kind, host):
    try:
        with socket.create_connection((HOST, SOCKS), 5) as sock:
            sock.settimeout(20)
            sock.sendall(b"\5\1\0")
            if sock.recv(2) != b"\5\0":
                return False
            sock.sendall(b"\5\1\0" + kind + host + ECHO[1].to_bytes(2, "big"))
            if sock.recv(10)[1:2] != b"\0":
                return False
            sock.sendall(b"hello")
            return sock.recv(5) == b"hello"
    except OSError:
        return False


def main():
    os.makedirs(DIR, exist_ok=True)
    atexit.register(stop)
    made = [make_keys(number) for number in range(AUTHORITIES)]
    authorities = "".join(line for _, line in made)
    for number, (home, _) in enumerate(made):
        or_port, directory = ports(number)
        start(f"a{number}", f"{COMMON}{authorities}DataDirectory {home}\nNickname a{number}\nORPort {or_port}\n"
              f"DirPort {directory}\nSocksPort 0\nAuthoritativeDirectory 1\nV3AuthoritativeDirectory 1\n"
              f"ContactInfo test\nExitRelay 1\nExitPolicy accept *:*\nExitPolicyRejectPrivate 0\nIPv6Exit 1\n")
    for number in range(AUTHORITIES, AUTHORITIES + RELAYS):
        start(f"r{number}", f"{COMMON}{authorities}DataDirectory {DIR}/r{number}\nNickname r{number}\n"
              f"ORPort {ports(number)[0]}\nSocksPort 0\nExitRelay 1\nExitPolicy accept *:*\n"
              f"ExitPolicyRejectPrivate 0\nContactInfo test\n")
    onion = os.path.join(DIR, "onion")
    os.makedirs(onion, mode=0o700)
    os.makedirs(os.path.join(DIR, "client"), mode=0o700)
    start("client", f"{COMMON}{authorities}DataDirectory {DIR}/client\nSocksPort {HOST}:{SOCKS}\n"
          f"SocksPolicy accept *\nMapAddress www.site.example {ECHO[0]}\nHiddenServiceDir {onion}\n"
          f"HiddenServicePort {ECHO[1]} {ECHO[0]}:{ECHO[1]}\nHiddenServicePort 80 {ECHO[0]}:80\nClientDNSRejectInternalAddresses 0\n"
          f"ClientRejectInternalAddresses 0\n")
    end = time.monotonic() + 170
    name = None
    while time.monotonic() < end:
        if name is None and gets_through(b"\1", socket.inet_aton(ECHO[0])):
            with open(os.path.join(onion, "hostname")) as file:
                name = file.read().strip()
        if name and gets_through(b"\3", bytes([len(name)]) + name.encode()):
            print(name, flush=True)
            sys.stdin.read()
            return
        time.sleep(0.5)
    sys.exit("the Tor network does not come up")


main()
