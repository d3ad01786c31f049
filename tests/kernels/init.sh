#!/bin/dash
# The machine's first process: its root is that of the machine outside, with a layer of memory over it.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
. /settings
mount -n -t proc none /proc
mount -n -t sysfs none /sys
mount -n -t devtmpfs none /dev
mount -n -t tmpfs none /run
while read -r module; do insmod "$module"; done < /modules/order
mount -n -t virtiofs -o ro host /host
mount -n -t tmpfs none /rw
mkdir /rw/upper /rw/work
mount -n -t overlay -o lowerdir=/host,upperdir=/rw/upper,workdir=/rw/work none /new
exec switch_root /new /bin/bash "$CHECKOUT/tests/kernels/inside.sh"
