#!/bin/sh
# Runs a program while another one watches the whole machine: watched.sh FOLDER OUTPUT WATCHER... -- PROGRAM...
# The watcher writes to OUTPUT, and says "watching" on its standard error (or in FOLDER/begun) once it does.
set -eu
folder=$1 output=$2
shift 2
count=0
for word; do
    [ "$word" != -- ] || break
    count=$((count + 1))
done
# The first $count words are the watcher.
number=$count watcher=
for word; do
    [ $number -gt 0 ] || break
    watcher="$watcher '$word'"
    number=$((number - 1))
done
shift $((count + 1))
rm -f "$folder/said" "$folder/begun" "$output"
# Without exec the shell would be the one that is ended.
eval "exec $watcher" > "$folder/told" 2> "$folder/said" &
pid=$!
until grep -qs watching "$folder/said" "$folder/begun"; do
    kill -0 $pid || { cat "$folder/said" >&2; exit 1; }
    sleep 0.02
done
status=0
"$@" || status=$?
kill -TERM $pid || { cat "$folder/said" >&2; exit 1; }
wait $pid || true
# What saw nothing costs nothing.
[ "$(wc -l < "$output")" -gt 10 ] || { echo "the watcher saw nothing" >&2; exit 1; }
grep -ih 'lost\|dropped' "$folder/said" "$folder/told" >&2 || true
exit $status
