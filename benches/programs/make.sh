#!/bin/sh
# make.sh FOLDER COUNT: builds a small C project of COUNT files with make -j.
set -e
cd "$1"
i=0
while [ $i -lt "$2" ]; do
    i=$((i + 1))
    echo "#include <stdio.h>
int function$i(int x) { printf(\"%d\", x); return x + $i; }" > file$i.c
done
echo 'all: $(patsubst %.c,%.o,$(wildcard *.c))' > Makefile
exec make -s -j 4
