#!/usr/bin/env bash
# A real S3 for the tests: one node of Ceph with its RADOS gateway, data in memory, reachable from this machine only.
#
#   real_s3.sh install       the packages, with apt-get, as root; does nothing where they are there
#   real_s3.sh start FOLDER  starts it in a new FOLDER and prints what to export, in about 12 seconds
#   real_s3.sh stop FOLDER   ends what `start` started there, known by its pid files
#
# It listens on the port MAD_S3_PORT (9310) and the next one. There are two users, so that one can be denied what is the other's.
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
  if [ "$(id -u)" != 0 ]; then echo "real_s3.sh: not installed, and only root can:$missing" >&2; exit 2; fi
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

# Asks again until it is answered, for a minute.
until_it_works() {
  for _ in $(seq 300); do
    if "$@" >>"$folder/logs/waiting" 2>&1; then return; fi
    sleep 0.2
  done
  echo "real_s3.sh: gave up waiting for: $*; see $folder/logs" >&2
  exit 1
}

answers() { (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

# On a busy machine the first try can come too early, and leave the user made or not.
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
    ceph-osd -c "$conf" -i 0
    radosgw -c "$conf" -n client.gateway
    until_it_works answers
    until_it_works add_user owner
    until_it_works add_user guest
  } >>"$folder/logs/start" 2>&1
}

# On a busy machine one of its services can come up too late for the next and end; a new start is then all it takes.
start() {
  local try code
  if [ -e "$folder/ceph.conf" ]; then echo "real_s3.sh: $folder is in use; stop it, or name a new folder" >&2; exit 2; fi
  if answers; then echo "real_s3.sh: something listens on port $port already; choose another by MAD_S3_PORT" >&2; exit 2; fi
  for try in 1 2 3; do
    # In a process of its own: bash ignores `set -e` in anything whose success it is asked about.
    code=0; "$0" launch "$folder" || code=$?
    if [ "$code" = 0 ]; then
      echo "export MAD_S3_ENDPOINT=http://127.0.0.1:$port MAD_S3_OWNER=owner-key:owner-secret MAD_S3_GUEST=guest-key:guest-secret"
      return
    fi
    echo "real_s3.sh: start $try of 3 failed (exit $code); the end of its logs:" >&2
    tail -n 8 "$folder"/logs/{start,waiting} >&2 || true
    stop
  done
  exit 1
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
  launch:named) launch ;; # one try of start
  stop:named) stop ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
