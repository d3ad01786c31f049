#!/bin/sh
# What share of MADE connects a watcher doesn't tell, in percent: burst.sh MADE FOLDER OUTPUT WATCHER... -- PROGRAM...
# As watched.sh. Says where some were lost in silence.
set -eu
made=$1 folder=$2 output=$3
shift
sh "${0%/*}/watched.sh" "$@" > /dev/null 2> "$folder/losses" || { cat "$folder/losses" >&2; exit 1; }
# "# 17 events lost" or "Lost 17 events"
awk -v made="$made" '
    /connect\(/ { told++ }
    /^# [0-9]+ events lost/ || /^Lost [0-9]+ events/ { gsub(/[^0-9]/, ""); lost += $0 }
    END {
        if (told + lost < made)
            printf "of %d calls %d were told, and %d counted as lost\n", made, told, lost > "/dev/stderr"
        printf "%.2f\n", told < made ? 100 * (made - told) / made : 0
    }' "$output" "$folder/losses"
