#!/bin/sh
# Runs a command as root of a Linux of its own, which has rbd where this machine's kernel has not:
#   apt-get install -y --no-install-recommends user-mode-linux ceph-mon ceph-osd ceph-common
#   tests/user_mode_linux.sh .venv/bin/python -m pytest --timeout 1800 tests/drivers/test_rbd.py
# It sees this machine's files but for /run and /dev, and has loopback for a network.
if [ -z "$UML_COMMAND" ]; then
  command=$(mktemp)
  printf '%s\0' "$@" >"$command"
  "${UML:-linux.uml}" mem="${UML_MEMORY:-5G}" root=none rootfstype=hostfs rw quiet con=null con0=null,fd:1 \
    UML_COMMAND="$command" UML_FOLDER="$PWD" UML_MODULES="${UML_MODULES:-/usr/lib/uml/modules}" \
    init="$(realpath "$0")" </dev/null
  read -r status <"$command.status"
  rm "$command" "$command.status"
  exit "${status:-1}"
fi
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/run/tmp TMPDIR=/run/tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o size=100% run /run
mkdir -p /run/tmp /run/lib /dev/shm
mount -t tmpfs shm /dev/shm
ln -s "$UML_MODULES" /run/lib/modules
modprobe -d /run -a rbd loop
hostname uml
ip link set lo up
cd "$UML_FOLDER" && xargs -0 -a "$UML_COMMAND" env
echo $? >"$UML_COMMAND.status"
echo o >/proc/sysrq-trigger
sleep 10
