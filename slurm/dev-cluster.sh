#!/usr/bin/env bash
# A real Slurm cluster on one machine, for trying campaigns and for the tests: several virtual nodes with fake GPUs,
# accounting, a queue `low` whose jobs are preempted and requeued, and a queue `high` that preempts them.
#
#   slurm/dev-cluster.sh start        up in seconds; installs Slurm's packages on Debian and Ubuntu if they lack
#   . /tmp/asiarch-dev-cluster/env    sbatch, squeue and asiarch-hpc of this shell use it
#   slurm/dev-cluster.sh status|stop
#
# For tests: lose-node NAME (the machine dies with its jobs), start-node NAME, stop-daemon NAME, start-daemon NAME
# (slurmctld, slurmdbd), wipe (stop, and forget all jobs).
#
# Needs root. Everything lies in one folder, listens on 127.0.0.1 alone, and is stopped by recorded pid. No systemd
# and no cgroups: memory is scheduled, not enforced.
set -euo pipefail

STATE=${ASIARCH_DEV_CLUSTER:-/tmp/asiarch-dev-cluster}
NODES=${ASIARCH_DEV_NODES:-4}
CPUS=${ASIARCH_DEV_CPUS:-8}    # each node claims as many: none of it is real
GPUS=${ASIARCH_DEV_GPUS:-4}
MAX_ARRAY=${ASIARCH_DEV_MAX_ARRAY:-1001} # tasks of an array job at most
PORT=${ASIARCH_DEV_PORT:-16900} # the first of those used
PACKAGES="slurmctld slurmd slurmdbd slurm-client munge mariadb-server"
HOST=$(hostname -s)
export SLURM_CONF=$STATE/etc/slurm.conf
PATH=$PATH:/usr/sbin:/sbin

say() { echo "dev-cluster: $*" >&2; }
die() { say "$*"; exit 2; }

# -- daemons, by name ----------------------------------------------------------------------------------------------

is_alive() { [ -s "$STATE/run/$1.pid" ] && kill -0 "$(cat "$STATE/run/$1.pid")" 2>/dev/null; }

launch() { # NAME COMMAND...
  local name=$1
  shift
  is_alive "$name" && return
  setsid "$@" >>"$STATE/log/$name.out" 2>&1 </dev/null &
  echo $! >"$STATE/run/$name.pid"
}

await() { # SECONDS WHAT COMMAND...
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $deadline ] || die "no $what after a while; look into $STATE/log"
    sleep 0.1
  done
}

end() { # NAME SIGNAL SECONDS: a signal, and SIGKILL for one that does not listen
  if is_alive "$1"; then
    local pid step
    pid=$(cat "$STATE/run/$1.pid")
    kill "-$2" "$pid" 2>/dev/null || true
    for ((step = 0; step < 10 * $3; step++)); do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
  fi
  rm -f "$STATE/run/$1.pid"
}

start_daemon() { # NAME
  case $1 in
    munged) launch munged munged --foreground --force --key-file="$STATE/secret/key" --socket="$STATE/run/munge.sock" \
      --pid-file="$STATE/run/munged.own" --log-file="$STATE/log/munged.log" --seed-file="$STATE/secret/seed" ;;
    mariadbd) launch mariadbd mariadbd --no-defaults --user=root --datadir="$STATE/mysql" \
      --socket="$STATE/run/mysql.sock" --bind-address=127.0.0.1 --port="$(port_of mariadbd)" \
      --pid-file="$STATE/run/mariadbd.own" --skip-log-bin --innodb-buffer-pool-size=64M \
      --innodb-log-file-size=32M --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900 ;;
    slurmdbd) launch slurmdbd slurmdbd -D ;;
    slurmctld) launch slurmctld slurmctld -D -f "$SLURM_CONF" ;;
    n*) mkdir -p "$STATE/spool/$1" && launch "$1" slurmd -D -N "$1" -f "$SLURM_CONF" ;;
    *) die "no daemon is called $1" ;;
  esac
}

node_names() { seq -f 'n%g' "$NODES"; }

port_of() { # NAME
  case $1 in
    mariadbd) echo $((PORT + 1)) ;;
    slurmdbd) echo $((PORT + 2)) ;;
    slurmctld) echo $((PORT + 3)) ;;
    n*) echo $((PORT + 10 + ${1#n})) ;;
  esac
}

# -- what a fresh folder needs ---------------------------------------------------------------------------------------

require_packages() {
  local command
  for command in munged mariadbd mariadb-install-db slurmdbd slurmctld slurmd sacctmgr; do
    command -v $command >/dev/null && continue
    command -v apt-get >/dev/null || die "$command is missing: install $PACKAGES"
    say "installing $PACKAGES"
    # shellcheck disable=SC2086
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $PACKAGES; } \
      >/tmp/asiarch-dev-cluster-install.log 2>&1 || die "apt-get failed: see /tmp/asiarch-dev-cluster-install.log"
    return
  done
}

require_ports() { # where another cluster, or what was left of one, listens, ours would only seem not to answer
  local name
  for name in mariadbd slurmdbd slurmctld $(node_names); do
    is_alive "$name" || ! is_open "$(port_of "$name")" 2>/dev/null ||
      die "port $(port_of "$name") is in use, by another cluster perhaps: stop that, or set ASIARCH_DEV_PORT (now $PORT)"
  done
}

write_files() {
  mkdir -p "$STATE"/{etc,run,log,state,spool,dev}
  (umask 077 && mkdir -p "$STATE/secret")
  local memory_mb index
  [ -s "$STATE/secret/key" ] || (umask 077 && head -c 128 /dev/urandom >"$STATE/secret/key")
  [ -s "$STATE/secret/password" ] || (umask 077 && head -c 18 /dev/urandom | base64 | tr -d '/+=' >"$STATE/secret/password")
  for ((index = 0; index < GPUS; index++)); do
    [ -c "$STATE/dev/gpu$index" ] || mknod "$STATE/dev/gpu$index" c 1 3
  done
  memory_mb=$(awk '/MemTotal/ {print int($2 / 1024) - 512}' /proc/meminfo)

  cat >"$STATE/etc/slurm.conf" <<CONF
ClusterName=dev
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmctldPort=$(port_of slurmctld)
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits until its credential expires: 120 s by default, 5 at least
AuthInfo=socket=$STATE/run/munge.sock,cred_expire=5
StateSaveLocation=$STATE/state
SlurmdSpoolDir=$STATE/spool/%n
SlurmctldPidFile=$STATE/run/slurmctld.own
SlurmdPidFile=$STATE/run/slurmd.%n.own
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdLogFile=$STATE/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
SwitchType=switch/none
PropagateResourceLimits=NONE
ReturnToService=2
# short times, so that tests see in seconds what takes minutes elsewhere
SlurmctldTimeout=10
SlurmdTimeout=10
InactiveLimit=0
KillWait=5
MinJobAge=300
MessageTimeout=20
# a step whose end the controller was away for takes its time to report
UnkillableStepTimeout=180
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,bf_continue,batch_sched_delay=0,default_queue_depth=1000
PriorityType=priority/multifactor
PriorityWeightPartition=1000
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
JobRequeue=1
MaxArraySize=$MAX_ARRAY
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$(port_of slurmdbd)
AccountingStoragePass=$STATE/run/munge.sock
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,qos
AccountingStoreFlags=job_comment
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n[1-$NODES] NodeHostname=$HOST NodeAddr=127.0.0.1 Port=[$(port_of n1)-$(port_of "n$NODES")] CPUs=$CPUS RealMemory=$memory_mb Gres=gpu:fake:$GPUS State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=10 DefaultTime=60 MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL Default=NO PriorityTier=10 PreemptMode=OFF DefaultTime=60 MaxTime=INFINITE State=UP
CONF
  printf 'AutoDetect=off\nName=gpu Type=fake File=%s\n' "$STATE/dev/gpu[0-$((GPUS - 1))]" >"$STATE/etc/gres.conf"
  : >"$STATE/etc/cgroup.conf"
  (umask 077 && cat >"$STATE/etc/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=socket=$STATE/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$(port_of slurmdbd)
CommunicationParameters=NoInAddrAny
SlurmUser=root
LogFile=$STATE/log/slurmdbd.log
PidFile=$STATE/run/slurmdbd.own
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$(port_of mariadbd)
StorageUser=slurm
StoragePass=$(cat "$STATE/secret/password")
StorageLoc=slurm_acct_db
CONF
  echo "export SLURM_CONF=$SLURM_CONF" >"$STATE/env"
}

sql() { mariadb --no-defaults -uroot -S "$STATE/run/mysql.sock" -e "$1"; }
is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }
nodes_are_up() { [ "$(sinfo -h -N -p low -o %T | grep -c -E '^(idle|mixed|allocated|completing)$')" -ge "$NODES" ]; }

# -- commands --------------------------------------------------------------------------------------------------------

start() {
  [ "$(id -u)" = 0 ] || die "run as root"
  require_ports
  require_packages
  getent hosts "$HOST" >/dev/null || die "the host name $HOST does not resolve: add '127.0.0.1 $HOST' to /etc/hosts"
  write_files
  if [ ! -d "$STATE/mysql/mysql" ]; then
    mariadb-install-db --no-defaults --user=root --datadir="$STATE/mysql" --skip-test-db \
      --auth-root-authentication-method=normal >"$STATE/log/mariadb-install.log" 2>&1 ||
      die "mariadb-install-db failed: see $STATE/log/mariadb-install.log"
  fi
  start_daemon munged
  start_daemon mariadbd
  await 60 database sql 'select 1'
  local password user
  password=$(cat "$STATE/secret/password")
  sql 'CREATE DATABASE IF NOT EXISTS slurm_acct_db'
  for user in slurm@127.0.0.1 slurm@localhost; do
    sql "CREATE USER IF NOT EXISTS $user; ALTER USER $user IDENTIFIED BY '$password'; GRANT ALL ON slurm_acct_db.* TO $user"
  done
  await 20 munge test -S "$STATE/run/munge.sock"
  start_daemon slurmdbd
  await 60 slurmdbd is_open "$(port_of slurmdbd)"
  sacctmgr -n list cluster format=cluster%20 | grep -qw dev || sacctmgr -iQ add cluster dev >/dev/null
  # who calls sudo may submit too; root has an account from the beginning
  [ -z "${SUDO_USER:-}" ] || sacctmgr -iQ add user "$SUDO_USER" account=root >/dev/null || true
  start_daemon slurmctld
  local node
  for node in $(node_names); do start_daemon "$node"; done
  await 60 "answer of all nodes ($(timeout 10 sinfo -h -N -p low -o '%N %T %E' | tr '\n' ';'))" nodes_are_up
  say "up after $SECONDS s: . $STATE/env"
}

stop() {
  [ -d "$STATE/run" ] || return 0
  local name
  is_alive slurmctld && timeout 10 scancel --quiet --user=root 2>/dev/null
  for name in $(node_names) slurmctld; do
    # all at once: each waits a while for the others
    is_alive "$name" && kill -TERM "$(cat "$STATE/run/$name.pid")"
  done
  for name in $(node_names) slurmctld slurmdbd; do end "$name" TERM 20; done
  end mariadbd TERM 30
  end munged TERM 5
  say "stopped"
}

status() {
  local name code=0
  for name in munged mariadbd slurmdbd slurmctld $(node_names); do
    if is_alive "$name"; then printf '%-10s up\n' "$name"; else printf '%-10s down\n' "$name" && code=1; fi
  done
  [ $code = 0 ] && timeout 10 sinfo
  return $code
}

# the processes of a node's jobs, slurmstepd first: killing slurmd alone leaves them running
processes_of() { # NODE
  local folder pid
  for folder in /proc/[0-9]*; do
    pid=${folder#/proc/}
    if [ "$(cat "$folder/comm" 2>/dev/null)" = slurmstepd ]; then
      pgrep -P "$pid" | while read -r child; do is_on "$child" "$1" && echo "$pid" && break; done
    fi
  done
  for folder in /proc/[0-9]*; do is_on "${folder#/proc/}" "$1" && echo "${folder#/proc/}"; done
}
is_on() { # PID NODE
  { tr '\0' '\n' <"/proc/$1/environ" | grep -qx "SLURMD_NODENAME=$2"; } 2>/dev/null
}

lose_node() { # NAME
  local pid
  end "$1" KILL 5
  for pid in $(processes_of "$1"); do kill -KILL "$pid" 2>/dev/null || true; done
}

case ${1:-} in
  start) start ;;
  stop) stop || true ;;
  status) status ;;
  wipe) stop || true && rm -rf "$STATE" ;;
  lose-node) lose_node "${2:?which node}" ;;
  start-node | start-daemon) start_daemon "${2:?which one}" ;;
  stop-daemon) end "${2:?which one}" TERM 20 ;;
  *) die "usage: $0 start|stop|status|wipe|lose-node NAME|start-node NAME|stop-daemon NAME|start-daemon NAME" ;;
esac
