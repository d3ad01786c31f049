#!/bin/bash
# The demonstration behind `make demo`: tests/demo.sh SOCKSTRACE
#
# Everything happens in a network namespace of its own, which has no way out: a web server at
# 203.0.113.5, a real SOCKS proxy (microsocks) at 203.0.113.9, and no name server at 203.0.113.53. Ends
# with 0 only if every step went as announced.
set -u

sockstrace=$(realpath "${1:?the program to show}")

if [ -z "${SOCKSTRACE_DEMO_INSIDE:-}" ]; then
    map=()
    [ "$(id -u)" = 0 ] || map=(--map-root-user)
    SOCKSTRACE_DEMO_INSIDE=1 exec unshare "${map[@]}" --net --mount --pid --fork --mount-proc --kill-child \
        -- bash "$0" "$sockstrace"
fi

# The system's own curl and python3 rather than wrappers of version managers.
PATH=/usr/bin:/bin:/usr/sbin:/sbin:$PATH
if [ -t 1 ]; then bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; else bold='' green='' red='' plain=''; fi

work=$(mktemp -d) || exit 1
cd "$work" || exit 1
trap 'rm -rf "$work"' EXIT
failures=0
web=203.0.113.5
proxy=203.0.113.9

# --- the stage -------------------------------------------------------------------------------------

ip link set lo up
for address in $web $proxy; do ip address add $address/32 dev lo; done
mkdir "$work/site"
echo 'Hello from the web server.' > "$work/site/index.html"
# A copy of /etc, so that name service is the stage's own; what an ordinary user can't read isn't needed.
cp -a /etc "$work/etc" 2> "$work/cp.log"
rm -f "$work"/etc/{resolv.conf,nsswitch.conf,hosts}
echo 'nameserver 203.0.113.53' > "$work/etc/resolv.conf"
echo 'hosts: files dns' > "$work/etc/nsswitch.conf"
echo '127.0.0.1 localhost' > "$work/etc/hosts"
mount --bind "$work/etc" /etc || exit 1
# The proxy alone knows the name: who wants to know it has to ask the proxy.
printf '%s www.site.example\n' $web > "$work/hosts-of-the-proxy"
unshare --mount sh -c "mount --bind '$work/hosts-of-the-proxy' /etc/hosts &&
    exec microsocks -i $proxy -p 1080 -b $proxy" > "$work/proxy.log" 2>&1 &
python3 -u -m http.server --directory "$work/site" --bind $web 80 >> "$work/web.log" 2>&1 &

answers() { (exec 3<> "/dev/tcp/$1/$2") 2> /dev/null; }
for _ in $(seq 100); do
    answers $web 80 && answers $proxy 1080 && break
    sleep 0.1
done
answers $web 80 || { echo "the web server did not start:"; cat "$work/web.log"; exit 1; }
answers $proxy 1080 || { echo "microsocks did not start:"; cat "$work/proxy.log"; exit 1; }

# --- telling and checking --------------------------------------------------------------------------

say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# show COMMAND: prints it as a user would type it, runs it, keeps what it did
show() {
    printf '$ sockstrace %s\n' "$*"
    : > "$work/web.log"
    "$sockstrace" "$@" > "$work/out" 2> "$work/err"
    status=$?
    cat "$work/out" "$work/err"
    sleep 0.1
    seen=$(grep -c '"GET ' "$work/web.log")
    visitor=$(sed -n 's/ .*"GET .*//p' "$work/web.log" | sort -u)
    printf '(exit status %s; requests at the web server: %s%s)\n' "$status" "$seen" "${visitor:+ from $visitor}"
}

# expect WHAT TEST...
expect() {
    local what=$1
    shift
    if "$@"; then
        printf '  %sas expected%s: %s\n' "$green" "$plain" "$what"
    else
        printf '  %sNOT AS EXPECTED%s: %s\n' "$red" "$plain" "$what"
        failures=$((failures + 1))
    fi
}

told() { grep -Eq "$1" "$work/err"; }
page() { grep -q 'Hello from the web server' "$work/out"; }

say "1. curl goes direct. The leak is caught and refused: nothing reaches the web server."
show --proxy socks5://$proxy:1080 curl -sS http://$web/
expect "one line says what leaked, where to, and by whom" told "^LEAK connect TCP $web:80 by curl\[[0-9]+\] blocked \(EPERM\)"
expect "curl failed to connect, and its exit status is its own" test "$status" = 7
expect "the web server saw nobody" test "$seen" = 0

say "2. The same, only recorded: the page arrives, and the exit status tells."
show --proxy socks5://$proxy:1080 --on-leak log curl -sS http://$web/
expect "the leak is reported" told "^LEAK connect TCP $web:80 by curl\[[0-9]+\] let go"
expect "exit status 23 for a program that succeeded but leaked" test "$status" = 23
expect "the web server saw curl's own address" test "$seen $visitor" = "1 $web"
expect "the page arrived" page

say "3. curl goes through the proxy: no leak."
show --proxy socks5://$proxy:1080 curl -sS --proxy socks5h://$proxy:1080 http://www.site.example/
expect "no leak" told "^sockstrace: no leak"
expect "exit status 0" test "$status" = 0
expect "the web server saw the proxy" test "$seen $visitor" = "1 $proxy"
expect "the page arrived" page

say "4. One letter less (socks5 for socks5h), and curl asks the name server behind the proxy's back."
show --proxy socks5://$proxy:1080 curl -sS --max-time 20 --proxy socks5://$proxy:1080 http://www.site.example/
expect "the DNS leak is caught" told "^LEAK .* UDP 203\.0\.113\.53:53 by curl\[[0-9/]+\] blocked"
expect "the web server saw nobody" test "$seen" = 0

say "5. Another program, the other backend: Python, intercepted by ptrace."
cat > fetch.py << 'PYTHON'
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1]).read().decode())
except OSError as error:
    sys.exit(f"fetch.py: {error}")
PYTHON
show --backend ptrace --proxy socks5://$proxy:1080 python3 fetch.py http://$web/
expect "the leak is caught" told "^LEAK connect TCP $web:80 by python3[^ ]*\[[0-9]+\] blocked \(EPERM\)"
expect "Python saw the error of a local firewall" told "Operation not permitted"
expect "the web server saw nobody" test "$seen" = 0

echo
if [ $failures -gt 0 ]; then
    echo "demo: $failures expectations failed"
    exit 1
fi
echo "demo: everything went as expected"
