#!/bin/bash
# In the machine: makes of it what tests expect, runs them, and turns it off.
cd "$CHECKOUT" || exit
mount -t securityfs none /sys/kernel/security
mkdir -p /dev/pts /dev/shm /lib/modules
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t cgroup2 none /sys/fs/cgroup
mount --bind "$MODULES" /lib/modules
ln -sf /proc/self/fd /dev/fd
ip link set lo up
# Filters and families that are modules, some of which aren't loaded by being asked for.
modprobe -qa veth dummy tun vsock_loopback dccp_ipv4 dccp_ipv6

echo "Linux $(uname -r): $(cat /sys/kernel/security/lsm 2> /dev/null)"
"$SOCKSTRACE" doctor | tee /run/doctor
failed=0
# What doesn't work is not tested, and nothing proven.
for line in '^seccomp: works$' '^ptrace: works$' '^ebpf: works$' '^ *yes *lsm/socket_sendmsg '; do
    grep -q "$line" /run/doctor || { echo "FAILED: doctor doesn't say $line"; failed=1; }
done
attempt() {
    timeout --kill-after 10 "${SOCKSTRACE_TEST_LIMIT:-1500}" \
        env SOCKSTRACE_CASE="$case" SOCKSTRACE_SHARE="$share" "$binary" --exact "$name" --show-output --test-threads=1 > /run/output 2>&1 < /dev/null &&
        grep -q '1 passed' /run/output
}
while IFS=$'\t' read -r test binary; do
    started=$SECONDS name=${test#*:} case=${SOCKSTRACE_CASE:-} share=1/1
    case $name in *@share) share=$SHARE name=${name%@share} ;; esac
    case $name in *@*) case=${name#*@} name=${name%@*} ;; esac
    result=FAILED
    # An emulated processor is some twenty times as slow, and the machine below it may be busy: a second try, which is told of.
    for again in '' ' at the second attempt'; do
        attempt && { result=passed; break; }
        sed 's/^/    /' /run/output
    done
    [ $result = passed ] || failed=1
    echo "$result $((SECONDS - started)) s $test$again"
    grep -a 'skipped' /run/output
done < "$PLAN"
[ $failed = 1 ] || echo "all tests passed"
echo o > /proc/sysrq-trigger
sleep 60
