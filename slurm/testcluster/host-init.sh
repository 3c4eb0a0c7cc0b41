#!/bin/bash
# First process of one host of the test cluster, in namespaces of its own: host-init.sh NAME FOLDER [DAEMON]
set -e
name=$1 folder=$2 daemon=${3:-}

hostname "$name"
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind "$folder/etc/hosts" /etc/hosts
mount --bind "$folder/etc/resolv.conf" /etc/resolv.conf
mount --bind "$folder/etc/slurm" /etc/slurm
# Debian's pmix plugin opens libpmix.so by its full path, a link that only libpmix-dev ships: this host sees a folder that has it
for lib in /usr/lib/*/pmix2/lib; do
  if [ -d "$folder/pmix" ]; then mount --bind "$folder/pmix" "$lib"; fi
done
# outside, bin/ holds wrappers that enter the login host; whoever is inside a host (a job inherits PATH) must not see them
mount --bind "$folder/empty" "$folder/bin"

cd /
: > "$folder/run/$name.ready"
if [ -z "$daemon" ]; then exec sleep infinity; fi
ulimit -n 16384
"$daemon"
# stay as pid 1 of the node: it reaps orphans, and killing it is a power failure
while :; do sleep 3600 & wait $!; done
