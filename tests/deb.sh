#!/bin/bash
# Looks at a package that cargo-deb has made: tests/deb.sh FILE.deb
set -euo pipefail
deb=$1
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
fail() { echo "$0: $deb: $*" >&2; exit 1; }

field() { dpkg-deb --field "$deb" "$1"; }
[ "$(field Package)" = sockstrace ] || fail "it is $(field Package)"
[ "$(field Architecture)" = "$(dpkg --print-architecture)" ] || fail "it is for $(field Architecture)"
for field in Version Maintainer Description Section Priority Installed-Size; do
    [ -n "$(field $field)" ] || fail "$field is missing"
done
# Everything that the program is linked with has its package.
for library in libc6 libseccomp2; do
    field Depends | grep -q "\b$library\b" || fail "it doesn't depend on $library: $(field Depends)"
done

dpkg-deb --extract "$deb" "$place"
# By number: the archive may have no names.
dpkg-deb --contents "$deb" | awk '$2 != "root/root" && $2 != "0/0" { print; bad = 1 } END { exit bad }' ||
    fail "not root's"
[ -z "$(find "$place" -perm /022 ! -type l)" ] || fail "others may write: $(find "$place" -perm /022)"
program=$place/usr/bin/sockstrace
[ "$(stat -c %a "$program")" = 755 ] || fail "the program's mode"
[ "$("$program" --version)" = "sockstrace $(field Version | sed 's/-[^-]*$//')" ] || fail "$("$program" --version)"
readelf --sections "$program" | grep -q '\.debug_info' && fail "the program isn't stripped"

doc=$place/usr/share/doc/sockstrace
grep -q 'GPL-3' "$doc/copyright" || fail "no licence"
[ -s "$doc/README.md" ] || [ -s "$doc/README.md.gz" ] || fail "no README"
for page in sockstrace sockstrace-report sockstrace-learn; do
    file=$place/usr/share/man/man1/$page.1.gz
    [ -s "$file" ] || fail "no page $page"
    gzip --test "$file"
    if command -v groff > /dev/null; then
        [ -z "$(zcat "$file" | groff -man -Tutf8 -ww 2>&1 > /dev/null)" ] || fail "groff complains about $page"
    fi
    zcat "$file" | grep -qF -- '\-\-help' || fail "$page has no options"
done
bash -n "$place/usr/share/bash-completion/completions/sockstrace"
grep -q '^#compdef sockstrace' "$place/usr/share/zsh/vendor-completions/_sockstrace" || fail "no zsh completion"
grep -q 'complete -c sockstrace' "$place/usr/share/fish/vendor_completions.d/sockstrace.fish" || fail "no fish completion"

# It can be installed, and be removed without a trace, where its dependencies are there.
root=$place/root
mkdir -p "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates"
touch "$root/var/lib/dpkg/status"
dpkg() { command dpkg --root="$root" --force-depends --force-not-root --force-script-chrootless --log=/dev/null "$@"; }
dpkg --install "$deb" > "$root/log" 2>&1 || { cat "$root/log" >&2; fail "dpkg doesn't install it"; }
cmp "$root/usr/bin/sockstrace" "$program" || fail "it installs another program"
"$root/usr/bin/sockstrace" doctor > /dev/null || fail "doctor fails"
dpkg --purge sockstrace >> "$root/log" 2>&1 || { cat "$root/log" >&2; fail "dpkg doesn't remove it"; }
[ ! -e "$root/usr/bin/sockstrace" ] && [ ! -e "$root/usr/share/doc/sockstrace" ] || fail "it leaves something behind"
# What the program is linked with is what the package depends on.
for library in $(ldd "$program" | awk '$2 == "=>" { print $3 }'); do
    owner=$(command dpkg --search "$(readlink -f "$library")" "$library" 2> /dev/null | head -n 1 | cut -d : -f 1 || true)
    case $owner in
        libc6 | libseccomp2) ;;
        *) field Depends | grep -q "\b$owner\b" || fail "linked with $library of ${owner:-no package}, not in Depends" ;;
    esac
done
rm -rf "$root"

# Nothing else.
others=$(cd "$place" && find . -type f | grep -v -e '^./usr/bin/sockstrace$' -e '^./usr/share/doc/sockstrace/' \
    -e '^./usr/share/man/man1/sockstrace' -e '^./usr/share/bash-completion/' -e '^./usr/share/zsh/' \
    -e '^./usr/share/fish/' || true)
[ -z "$others" ] || fail "what is this: $others"
# What was built where is nobody's business.
for path in "$HOME/.cargo" "$PWD"; do
    grep -q --binary-files=text -F "$path" "$program" && echo "$0: note: the program names $path" >&2
done
if command -v lintian > /dev/null; then
    lintian --fail-on error --suppress-tags no-changelog,initial-upload-closes-no-bugs "$deb" || fail "lintian"
fi
echo "$deb: $(dpkg-deb --contents "$deb" | grep -c '^-') files, all well"
