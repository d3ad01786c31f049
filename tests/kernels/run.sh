#!/bin/bash
# Runs tests under other kernels: Debian's for cloud machines, in qemu, without KVM (slow, but anywhere).
#
#   tests/kernels/run.sh [SERIES…]        6.1 6.12, unless others are named: the newest package of each in apt's lists; at once
#
# The machine has no network but its own loopback. Its root is this one's, with a layer of memory over it: what is
# installed and built here is there, and nothing that is done there stays. As root, after tests/deps.sh kernels.
#
#   TESTS="vectors:ebpf_log quiet:silence" names tests (default: those in tests/kernels/plan)
#   SOCKSTRACE_CASE=tcp4                   takes the rows of tables whose names contain it; so does vectors:ebpf_log@tcp4
#   SHARES=4                               of what is @share, each kernel takes one of so many parts (default: together
#                                          they take all)
#
# Of vectors:ebpf_block@share each kernel runs a part of the rows, and of vectors:ebpf_log@uring@share of those with that name.
set -eu -o pipefail
cd "$(dirname "$0")/../.."
here=$PWD/tests/kernels
PATH=$PATH:/usr/sbin:/sbin
export SOCKSTRACE_TEST_PATIENCE=${SOCKSTRACE_TEST_PATIENCE:-6}
series=("$@")
[ $# != 0 ] || series=(6.1 6.12)
[ "$(id -u)" = 0 ] || { echo "$0: virtiofsd shows files to the machine: it needs root" >&2; exit 1; }

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
store=$target/kernels
mkdir -p "$store"
work=$(mktemp -d)
declare -A running=()
trap 'kill "${running[@]}" 2> /dev/null || true; rm -rf "$work"' EXIT

# The tests: which file has which, as TARGET PATH.
mapfile -t wanted < <(if [ -n "${TESTS:-}" ]; then tr ' ' '\n' <<< "$TESTS"; else grep -v '^#' "$here/plan"; fi)
binaries=$(printf '%s\n' "${wanted[@]%%:*}" | sort -u)
arguments=(--bin sockstrace --test vectors)
for binary in $binaries; do arguments+=(--test "$binary"); done
${CARGO:-cargo} test --locked --no-run --message-format=json "${arguments[@]}" 2> "$work/build" > "$work/built" ||
    { cat "$work/build" >&2; exit 1; }
jq -r 'select(.executable and .profile.test == (.target.kind[0] == "test")) | "\(.target.name) \(.executable)"' "$work/built" | sort -u > "$work/executables"
for test in "${wanted[@]}"; do
    path=$(awk -v name="${test%%:*}" '$1 == name { print $2 }' "$work/executables")
    printf '%s\t%s\n' "$test" "${path:?"no test binary ${test%%:*}"}"
done > "$work/plan"
# Has the guests compiled, here where it is fast.
SOCKSTRACE_CASE=none "$(awk '$1 == "vectors" { print $2 }' "$work/executables")" natively > "$work/natively" 2>&1 ||
    { cat "$work/natively"; exit 1; }

# The package of a kernel's newest release that apt knows of.
newest() {
    apt-cache search --names-only "^linux-image-${1//./\\.}[.][0-9.+~a-z-]*cloud-amd64\$" | awk '{ print $1 }' |
        sed '/dbg/d' | sort -V | tail -1
}

# Fetches and unpacks a kernel; its folder.
kernel() {
    local package folder
    newest "$1" | grep -q . || apt-get -qq update >&2
    package=$(newest "$1")
    [ -n "$package" ] || { echo "$0: apt knows no cloud kernel $1" >&2; return 1; }
    folder=$store/$package
    if [ ! -d "$folder" ]; then
        mkdir "$work/package"
        chmod 777 "$work" "$work/package"
        (
            cd "$work/package"
            apt-get -qq download "$package" || { apt-get -qq update && apt-get -qq download "$package"; }
            dpkg-deb -x "$package"_*.deb unpacked
        ) >&2
        # Modules are under /usr in newer packages.
        [ -d "$work/package/unpacked/lib/modules" ] || ln -s usr/lib "$work/package/unpacked/lib"
        depmod -b "$work/package/unpacked" "${package#linux-image-}"
        mv "$work/package/unpacked" "$folder"
        rm -r "$work/package"
    fi
    echo "$folder"
}

# What mounts the machine's root: the kernel's modules for that, and programs of here. In the folder $3, for a machine
# that runs the share $4 of what is shared.
initrd() {
    local folder=$1 version=$2 root=$3/initrd file name
    mkdir -p "$root"/{proc,sys,dev,run,rw,host,new,modules,usr/bin,usr/sbin,usr/lib,usr/lib64}
    for file in bin sbin lib lib64; do ln -s "usr/$file" "$root/$file"; done
    for file in dash mount mkdir insmod switch_root; do
        file=$(command -v $file)
        for file in "$file" $(ldd "$file" | grep -o '/[^ ]*'); do
            mkdir -p "$root$(dirname "$file")"
            cp -L "$file" "$root$file"
        done
    done
    # In the order in which they need each other.
    modprobe -d "$folder" -S "$version" -a --show-depends virtio_pci virtiofs overlay | awk '/^insmod/ { print $2 }' |
        while read -r file; do
            cp "$file" "$root/modules/"
            echo "/modules/${file##*/}"
        done | awk '!seen[$0]++' > "$root/modules/order"
    cp "$here/init.sh" "$root/init"
    {
        printf 'export %s=%q\n' CHECKOUT "$PWD" MODULES "$folder/lib/modules" PLAN "$work/plan" SHARE "$4" SOCKSTRACE \
            "$(awk '$1 == "sockstrace" { print $2 }' "$work/executables")"
        for name in "${!SOCKSTRACE_@}"; do printf 'export %s=%q\n' "$name" "${!name}"; done
    } > "$root/settings"
    (cd "$root" && find . | cpio --quiet -o -H newc) | gzip -1 > "$3/initrd.gz"
}

# Runs one, prepared in the folder $3; what it says is in $store/$1.log. It is for the background: who ends this script
# ends its machines.
#
# One processor: with more, kernels stumble over the breakpoints with which they patch themselves (TCG). On a busy machine the
# timer may be late, which the kernel takes for a broken one. Mitigations of the processor's faults and page tables of five
# levels take time here, and protect nothing.
boot() {
    local folder=$1 version=$2 place=$3 log=$4 started=()
    trap 'kill "${started[@]}" 2> /dev/null' EXIT
    trap 'exit 143' TERM
    /usr/lib/qemu/virtiofsd --socket-path="$place/socket" -o source=/ -o cache=always -o sandbox=chroot \
        > "$place/virtiofsd.log" 2>&1 &
    started+=($!)
    while [ ! -e "$place/socket" ]; do kill -0 $! || { cat "$place/virtiofsd.log"; exit 1; }; sleep 0.1; done
    qemu-system-x86_64 -accel tcg -cpu max,la57=off -smp 1 -m 3G -nographic -nic none -no-reboot \
        -object memory-backend-memfd,id=memory,size=3G,share=on -numa node,memdev=memory \
        -chardev socket,id=files,path="$place/socket" -device vhost-user-fs-pci,chardev=files,tag=host \
        -kernel "$folder/boot/vmlinuz-$version" -initrd "$place/initrd.gz" \
        -append "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off" < /dev/null \
        > >(sed -u 's/\r//g; s/\x1b[^A-Za-z]*[A-Za-z]//g' > "$log") 2>&1 &
    started+=($!)
    wait $!
}

for one in "${series[@]}"; do
    folder=$(kernel "$one")
    version=$(basename "$folder"/boot/vmlinuz-*)
    version=${version#vmlinuz-}
    mkdir "$work/$one"
    initrd "$folder" "$version" "$work/$one" "$((${#running[@]} + 1))/${SHARES:-${#series[@]}}"
    : > "$store/$one.log"
    boot "$folder" "$version" "$work/$one" "$store/$one.log" &
    running[$one]=$!
    tail --pid=$! -n +1 -F "$store/$one.log" 2> /dev/null | sed -u "s/^/$one: /" &
done

failed=() booted=$SECONDS
for one in "${series[@]}"; do
    while kill -0 "${running[$one]}" 2> /dev/null; do
        if [ $((SECONDS - booted)) -gt "${SECONDS_AT_MOST:-3600}" ]; then
            echo "$one: stopped after $((SECONDS - booted)) s"
            kill "${running[$one]}"
            break
        fi
        sleep 1
    done
    wait "${running[$one]}" || true
    grep -q '^all tests passed$' "$store/$one.log" || failed+=("$one")
done
[ ${#failed[@]} = 0 ] || { printf '\nfailed under %s\n' "${failed[*]}"; exit 1; }
