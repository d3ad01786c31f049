#!/bin/sh
# Writes the manual's pages and the shells' completions into a folder, for packages:
# packaging/generate.sh SOCKSTRACE FOLDER
set -eu
sockstrace=$1
folder=$2
mkdir -p "$folder"
"$sockstrace" manual > "$folder/sockstrace.1"
for command in report learn; do
    "$sockstrace" manual $command > "$folder/sockstrace-$command.1"
done
"$sockstrace" completions bash > "$folder/sockstrace"
"$sockstrace" completions zsh > "$folder/_sockstrace"
"$sockstrace" completions fish > "$folder/sockstrace.fish"
