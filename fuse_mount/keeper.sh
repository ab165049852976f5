#!/bin/sh
# Keeps a FUSE server running: keeper.sh COMMAND [ARGUMENT]...
#
# Holds the descriptors that it was given (fuse_mount/starting.py lists them), among them
# /dev/fuse: as long as somebody does, the kernel keeps the mount and the requests of readers.
# Ends when a server ends with status 0: then none is wanted any more. It must never look at
# the mount: killed while it waits for an answer, it would wait for ever.
#
# The report's pipe and the owner's are for the first server alone: their readers wait for end
# of file. Ten servers in a row that die within a second of their start will not live; without
# a keeper the kernel tells readers that nobody is there (ENOTCONN).

early=0
while :; do
  read -r began _ </proc/uptime
  "$@" &
  exec 3>&- 4<&-
  wait $!
  status=$?
  [ "$status" -eq 0 ] && exit 0
  read -r ended _ </proc/uptime
  # Hundredths of a second; a leading 1 keeps zeros from meaning octal numbers.
  lived=$((1${ended%.*}${ended#*.} - 1${began%.*}${began#*.}))
  [ "$lived" -ge 100 ] && early=0
  early=$((early + 1))
  if [ "$early" -ge 10 ]; then
    echo "keeper: $early servers in a row died at once, the last with status $status: no more" >&2
    exit 1
  fi
  echo "keeper: the server died with status $status (128 and its signal): starting another" >&2
  export LAYERSTORE_TAKES_OVER=1
done
