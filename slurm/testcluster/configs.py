"""The texts a cluster's daemons read, as file name -> content. Pure."""

from __future__ import annotations

from description import Cluster

SLURM_CONF = """\
ClusterName={name}
SlurmctldHost={controller}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# a short credential life lets a requeued job start at once
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
# the pmix plugin keeps a folder per step here: nodes that share one would collide
TmpFS={folder}/tmp/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
GresTypes=gpu
SchedulerType=sched/backfill
# the defaults are for clusters that live for years: a test wants its job started, its node missed and its job back at once
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=10000
SlurmdParameters=config_overrides
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ReturnToService=2
SlurmdTimeout=6
SlurmctldTimeout=10
MessageTimeout=5
TCPTimeout=2
KillWait=5
MinJobAge=600
MailProg=/bin/true
"""

ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={controller}
# this connection does not read AuthInfo
AccountingStoragePass={folder}/munge.sock
AccountingStorageTRES=gres/gpu
"""

SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost={controller}
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=3306
StorageUser=root
StorageLoc=slurm_acct_db
CommitDelay=1
"""

CGROUP_CONF = """\
CgroupPlugin={version}
CgroupMountpoint=/sys/fs/cgroup
ConstrainCores=no
ConstrainRAMSpace=no
ConstrainDevices=no
"""


def texts(cluster: Cluster, cgroup_version: str) -> dict[str, str]:
    """Every file of the hosts' /etc/slurm, and their hosts file. `cgroup_version` is "cgroup/v1" or "cgroup/v2"."""
    words = {
        "name": cluster.name,
        "folder": cluster.folder,
        "controller": cluster.controller,
        "address": cluster.address(cluster.controller),
        "proctrack": "cgroup" if cluster.cgroup else "linuxproc",
    }
    out = {
        "slurm/slurm.conf": SLURM_CONF.format(**words) + (ACCOUNTING.format(**words) if cluster.accounting else "") + _nodes(cluster),
        "slurm/gres.conf": _gres(cluster),
        "slurm/mpi.conf": "PMIxTimeout=60\n",
        "slurm/plugstack.conf": "",
        "hosts": _hosts(cluster),
        "resolv.conf": "",
    }
    if cluster.accounting:
        out["slurm/slurmdbd.conf"] = SLURMDBD_CONF.format(**words)
    if cluster.cgroup:
        out["slurm/cgroup.conf"] = CGROUP_CONF.format(version=cgroup_version)
    return out


def halves(cluster: Cluster) -> dict[str, str]:
    """Partition name -> Slurm's spelling of its nodes: two kinds of node, for heterogeneous jobs."""
    middle = (cluster.nodes + 1) // 2
    return {"big": f"{cluster.name}[0-{middle - 1}]", "small": f"{cluster.name}[{middle % cluster.nodes}-{cluster.nodes - 1}]"}


def _nodes(cluster: Cluster) -> str:
    lines = []
    for half, names in halves(cluster).items():
        gres = f"Gres=gpu:{half}:{cluster.gpus}" if cluster.gpus else ""
        shape = "CPUs=64 Sockets=2 CoresPerSocket=32 ThreadsPerCore=1 RealMemory=64000"
        lines.append(f"NodeName={names} {shape} {gres} Feature={half} State=UNKNOWN")
        lines.append(f"PartitionName={half} Nodes={names} MaxTime=INFINITE DefaultTime=10 State=UP")
    lines.append("PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP")
    return "\n".join(lines) + "\n"


def _gres(cluster: Cluster) -> str:
    if not cluster.gpus:
        return ""
    devices = f"{cluster.folder}/dev/gpu[0-{cluster.gpus - 1}]"
    return "".join(f"NodeName={names} Name=gpu Type={half} File={devices}\n" for half, names in halves(cluster).items())


def _hosts(cluster: Cluster) -> str:
    """Every host by name on the first network, and as NAME-fast on the second."""
    lines = ["127.0.0.1 localhost"]
    for host in cluster.hosts:
        lines += [f"{cluster.address(host)} {host}", f"{cluster.address(host, 1)} {host}-fast"]
    return "\n".join(lines) + "\n"
