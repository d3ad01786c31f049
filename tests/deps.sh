#!/bin/bash
# Installs what is missing: tests/deps.sh build|demo|test|bench|kernels. For Debian and its kin, as root; a
# Rust toolchain must be there.
set -eu

# What is needed, as COMMAND=PACKAGE or FILE=PACKAGE: what is there already, from wherever, stays.
build=(/etc/ssl/certs/ca-certificates.crt=ca-certificates cc=gcc pkg-config=pkg-config
    /usr/include/seccomp.h=libseccomp-dev clang=clang llvm-strip=llvm)
demo=("${build[@]}" make=make unshare=util-linux mount=mount ip=iproute2 curl=curl python3=python3
    microsocks=microsocks)
test=("${demo[@]}" setpriv=util-linux dash=dash strace=strace gdb=gdb g++=g++ objcopy=binutils eu-stack=elfutils
    dwz=dwz wget=wget git=git dig=bind9-dnsutils node=nodejs java=default-jdk-headless javac=default-jdk-headless
    go=golang-go musl-gcc=musl-tools tor=tor chromium=chromium firefox-esr=firefox-esr tshark=tshark
    danted=dante-server tinyproxy=tinyproxy sshd=openssh-server ssh-keygen=openssh-client nsenter=util-linux
    /usr/lib/python3/dist-packages/jsonschema=python3-jsonschema dbus-daemon=dbus-daemon dbus-send=dbus-bin
    busctl=systemd gdbus=libglib2.0-bin ssh-agent=openssh-client psql=postgresql-client
    /usr/lib/postgresql=postgresql Xvfb=xvfb xdpyinfo=x11-utils)
# i386 programs are tested where the machine can run them.
[ "$(uname -m)" != x86_64 ] || test+=(/usr/include/asm=gcc-multilib)

bench=("${test[@]}" bpftrace=bpftrace torsocks=torsocks proxychains4=proxychains4 redsocks=redsocks nft=nftables)

# Other kernels.
kernels=("${test[@]}" qemu-system-x86_64=qemu-system-x86 /usr/lib/qemu/virtiofsd=qemu-system-common cpio=cpio depmod=kmod
    jq=jq)

case "${1:-}" in
    build) wanted=("${build[@]}") ;;
    demo) wanted=("${demo[@]}") ;;
    test) wanted=("${test[@]}") ;;
    bench) wanted=("${bench[@]}") ;;
    kernels) wanted=("${kernels[@]}") ;;
    *) echo "usage: $0 build|demo|test|bench|kernels" >&2; exit 2 ;;
esac

# Debian keeps some of these out of an ordinary user's PATH.
PATH=$PATH:/usr/sbin:/sbin
missing=()
for pair in "${wanted[@]}"; do
    thing=${pair%=*} package=${pair##*=}
    # As the tests have it: SOCKSTRACE_WITHOUT=chromium,firefox
    name=${thing%%-*}
    case ",${SOCKSTRACE_WITHOUT:-}," in *",${name/javac/java},"*) continue ;; esac
    case $thing in
        /*) [ -e "$thing" ] || missing+=("$package") ;;
        *) command -v "$thing" > /dev/null || missing+=("$package") ;;
    esac
done
command -v cargo > /dev/null || { echo "$0: a Rust toolchain (cargo) is needed" >&2; exit 1; }

install() {
    local packages policy=/usr/sbin/policy-rc.d as_root=()
    mapfile -t packages < <(printf '%s\n' "$@" | sort -u)
    command -v apt-get > /dev/null || { echo "$0: please install: ${packages[*]}" >&2; exit 1; }
    if [ "$(id -u)" != 0 ]; then
        command -v sudo > /dev/null || { echo "$0: please install: ${packages[*]}" >&2; exit 1; }
        as_root=(sudo)
    fi
    echo "$0: installing ${packages[*]}"
    local log status=0
    log=$(mktemp)
    # Daemons are wanted as programs, not as services that start now.
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy > /dev/null
        "${as_root[@]}" chmod +x $policy
    else
        policy=
    fi
    {
        "${as_root[@]}" apt-get update && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install --yes --no-install-recommends "${packages[@]}"
    } < /dev/null > "$log" 2>&1 || status=$?
    [ $status = 0 ] || tail -50 "$log"
    rm -f "$log"
    [ -z "$policy" ] || "${as_root[@]}" rm -f $policy
    return $status
}

[ ${#missing[@]} = 0 ] || install "${missing[@]}"
# CPython's own tests, unless some python3 has them.
if [ "$1" = test ] && ! python3 "$(dirname "$0")/cpython.py" --find > /dev/null 2>&1; then
    install "libpython$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')-testsuite"
fi
# Some tests run programs as an ordinary user, who must be able to get at them.
if [ "$1" = test ] && [ "$(id -u)" = 0 ] &&
    ! setpriv --reuid 65534 --regid 65534 --clear-groups test -r Cargo.toml; then
    echo "$0: other users can't enter $PWD: the tests need a place where they can" >&2
    exit 1
fi
