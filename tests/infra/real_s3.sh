#!/usr/bin/env bash
# A real S3 for the tests: one node of Ceph with its RADOS gateway, data in memory, reachable from this machine only.
#
#   real_s3.sh install       install the packages with apt-get, as root; does nothing if they are installed
#   real_s3.sh start FOLDER  start it in a new FOLDER and print the variables to export; takes about 12 seconds
#   real_s3.sh stop FOLDER   stop what `start` started in FOLDER, by its pid files, and remove FOLDER
#
# It listens on port MAD_S3_PORT (default 9310) and the next one. It has two users, so that tests can deny one access to the
# other's objects.
set -euo pipefail

verb=${1:-}
folder=${2:-}
port=${MAD_S3_PORT:-9310}

install_packages() {
  local program missing=
  for program in radosgw radosgw-admin ceph ceph-mon ceph-osd monmaptool; do
    command -v "$program" >/dev/null || missing="$missing $program"
  done
  if [ -z "$missing" ]; then return; fi
  if [ "$(id -u)" != 0 ]; then echo "real_s3.sh: only root can install the missing programs:$missing" >&2; exit 2; fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends radosgw ceph-mon ceph-osd ceph-common >/dev/null
}

write_settings() {
  mkdir -p "$folder"/{monitor,store,gateway,logs,pids}
  cat >"$folder/ceph.conf" <<SETTINGS
[global]
fsid = $1
mon host = v1:127.0.0.1:$((port + 1))
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
pid file = $folder/pids/\$name.pid
log file = $folder/logs/\$name.log
run dir = $folder/pids
admin socket = $folder/pids/\$name.asok
mon data = $folder/monitor
mon data avail crit = 1
mon allow pool size one = true
mon max pg per osd = 1000
osd data = $folder/store
osd objectstore = memstore
memstore device bytes = 4G
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd max object name len = 1024
rgw data = $folder/gateway
rgw frontends = beast endpoint=127.0.0.1:$port tcp_nodelay=1
rgw run sync thread = false
rgw enable usage log = false
SETTINGS
}

# Repeats a command every 0.2 seconds until it succeeds, at most 300 times.
until_it_works() {
  local try
  for try in $(seq 300); do
    if "$@" >>"$folder/logs/waiting" 2>&1; then return; fi
    echo "try $try failed: $*" >>"$folder/logs/waiting"
    sleep 0.2
  done
  echo "real_s3.sh: 300 tries failed: $*; see $folder/logs" >&2
  exit 1
}

answers() { (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

# On a busy machine the first try can come too early, and may or may not have created the user.
add_user() {
  radosgw-admin -c "$folder/ceph.conf" user info --uid="$1" ||
    radosgw-admin -c "$folder/ceph.conf" user create --uid="$1" --display-name="$1" --access-key="$1-key" --secret-key="$1-secret"
}

launch() {
  local cluster disk conf="$folder/ceph.conf"
  cluster=$(cat /proc/sys/kernel/random/uuid)
  disk=$(cat /proc/sys/kernel/random/uuid)
  write_settings "$cluster"
  {
    set -x
    monmaptool --create --fsid "$cluster" --addv one "[v1:127.0.0.1:$((port + 1))]" "$folder/monmap"
    ceph-mon -c "$conf" -i one --mkfs --monmap "$folder/monmap"
    ceph-mon -c "$conf" -i one
    until_it_works timeout 5 ceph -c "$conf" quorum_status
    until_it_works timeout 20 ceph -c "$conf" osd new "$disk"
    ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$disk"
    # About every fourth time it ends with `wrong fsid`: it sent a command before it had the monitor's map.
    until_it_works ceph-osd -c "$conf" -i 0
    radosgw -c "$conf" -n client.gateway
    until_it_works answers
    until_it_works add_user owner
    until_it_works add_user guest
  } >>"$folder/logs/start" 2>&1
}

start() {
  local code=0
  if [ -e "$folder/ceph.conf" ]; then echo "real_s3.sh: $folder is in use; stop it, or name a new folder" >&2; exit 2; fi
  if answers; then echo "real_s3.sh: port $port is in use; set MAD_S3_PORT to another one" >&2; exit 2; fi
  # In a process of its own: bash ignores `set -e` in a command whose exit status is tested.
  "$0" launch "$folder" || code=$?
  if [ "$code" != 0 ]; then
    echo "real_s3.sh: the start failed (exit $code); the last lines of its logs:" >&2
    tail -n 8 "$folder"/logs/{start,waiting} >&2 || true
    stop
    exit 1
  fi
  echo "export MAD_S3_ENDPOINT=http://127.0.0.1:$port MAD_S3_OWNER=owner-key:owner-secret MAD_S3_GUEST=guest-key:guest-secret"
}

stop() {
  local file process
  if [ ! -e "$folder/ceph.conf" ]; then return; fi
  for file in "$folder"/pids/*.pid; do
    if [ ! -e "$file" ]; then continue; fi
    process=$(cat "$file")
    kill "$process" 2>/dev/null || continue
    for _ in $(seq 50); do kill -0 "$process" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$process" 2>/dev/null || true
  done
  rm -rf "$folder"
}

case "$verb:${folder:+named}" in
  install:*) install_packages ;;
  start:named) start ;;
  launch:named) launch ;; # the part of start that runs in its own process
  stop:named) stop ;;
  *) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
