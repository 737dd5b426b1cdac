"""A real Slurm on this machine, in one folder: two nodes in the partition `cpu`, one in `gpu`."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM_CONF = Path("/etc/slurm/slurm.conf")
"""Snakemake's job step removes SLURM_CONF from the environment, so the cluster uses Slurm's default path."""

PORTS = {"ctld": 26817, "dbd": 26819, "n1": 27001, "n2": 27002, "g1": 27003, "sql": 26806}
NODES = ("n1", "n2", "g1")
SECONDS = 60.0


class ClusterError(RuntimeError):
    """The cluster did not start; the message contains the last lines of the daemon's log."""


def wait_for(what: str, ready: Callable[[], bool], *, seconds: float = SECONDS, log: Path | None = None) -> None:
    """Poll until ``ready`` returns True; after ``seconds`` raise ClusterError with the end of the log."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.2)
    tail = log.read_text(errors="replace")[-2000:] if log and log.is_file() else "no log"
    raise ClusterError(f"{what} was not ready within {seconds:.0f} s\n{tail}")


@dataclass
class Cluster:
    """One cluster; used as a context manager."""

    folder: Path
    accounting: bool = True
    daemons: dict[str, subprocess.Popen] = field(default_factory=dict)
    _old_conf: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment with which a client uses this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> Cluster:
        for name in ("state", "spool", "log", "run", "sql"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end_jobs()
        for name in reversed(list(self.daemons)):
            self.stop(name)
        if SYSTEM_CONF.is_symlink() and SYSTEM_CONF.resolve() == (self.folder / "slurm.conf").resolve():
            SYSTEM_CONF.unlink()
            if self._old_conf:
                self._old_conf.rename(SYSTEM_CONF)

    def settle(self) -> None:
        """End all jobs and restart daemons and nodes that are down, for the next test."""
        self.client("scancel", "-u", "root")
        if self.accounting and "slurmdbd" not in self.daemons:
            self.start_accounting()
        for node in NODES:
            if node not in self.daemons:
                self.start_node(node)
        wait_for("an empty queue", lambda: not self.client("squeue", "-h").split())
        for node in set(NODES) - self.idle_nodes():
            self.client("scontrol", "update", f"NodeName={node}", "State=RESUME")
        wait_for("idle nodes", lambda: self.idle_nodes() == set(NODES))

    def _end_jobs(self) -> None:
        """End the processes on the nodes, because jobs outlive the daemons."""
        if "slurmctld" not in self.daemons:
            return
        try:
            self.client("scancel", "-u", "root")
            wait_for("an empty queue", lambda: not self.client("squeue", "-h").split())
        except (ClusterError, subprocess.TimeoutExpired) as error:
            print(f"jobs of the test cluster may still run: {error}", file=sys.stderr)

    def client(self, *command: str) -> str:
        """Return the output of a Slurm client command."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def start(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground of a new session, with its output in ``log/``."""
        with open(self.folder / "log" / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def stop(self, name: str, how: int = signal.SIGTERM) -> None:
        """Stop one daemon of this cluster."""
        daemon = self.daemons.pop(name)
        daemon.send_signal(how)
        try:
            daemon.wait(15)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self.start(node, "slurmd", "-D", "-N", node, "-f", str(self.folder / "slurm.conf"))

    def start_accounting(self) -> None:
        """Start the accounting daemon and wait until it responds."""
        self.start("slurmdbd", "slurmdbd", "-D")
        wait_for("slurmdbd", lambda: _listens(PORTS["dbd"]), log=self.folder / "log" / "slurmdbd.log")

    def _start(self) -> None:
        self._write_configuration()
        self._start_munge()
        if self.accounting:
            self._start_database()
            self.start_accounting()
            wait_for("cluster in the accounting database", self._register, log=self.folder / "log" / "slurmdbd.log")
        self.start("slurmctld", "slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        for node in NODES:
            self.start_node(node)
        wait_for("idle nodes", lambda: self.idle_nodes() == set(NODES), log=self.folder / "log" / "slurmctld.log")

    def _register(self) -> bool:
        done = subprocess.run(
            ["sacctmgr", "-i", "add", "cluster", "histomake"], env=self.environment, capture_output=True, text=True
        )
        return done.returncode == 0 or "already exist" in done.stdout + done.stderr

    def idle_nodes(self) -> set[str]:
        """Return the nodes that can accept a job."""
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%N %T"], env=self.environment, capture_output=True, text=True, timeout=30
        )
        return {line.split()[0] for line in done.stdout.splitlines() if line.split()[1] in ("idle", "mixed")}

    def is_down(self, node: str) -> bool:
        """Return whether Slurm has marked the node as down."""
        return "down" in self.client("sinfo", "-h", "-n", node, "-o", "%T")

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        # munged requires that no folder above its socket is writable by other users.
        self.folder.chmod(0o755)
        places = {name: self.folder / "run" / f"munge.{name}" for name in ("socket", "pid", "seed")}
        self.start(
            "munged",
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={places['socket']}",
            f"--pid-file={places['pid']}",
            f"--seed-file={places['seed']}",
            f"--log-file={self.folder / 'log' / 'munged.log'}",
        )
        wait_for("munged", places["socket"].exists, log=self.folder / "log" / "munged.out")

    def _start_database(self) -> None:
        data = self.folder / "sql"
        subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                "--user=root",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
            ],
            check=True,
            capture_output=True,
        )
        self.start(
            "mariadbd",
            "mariadbd",
            "--no-defaults",
            "--user=root",
            f"--datadir={data}",
            f"--socket={self.folder / 'run' / 'sql.sock'}",
            f"--pid-file={self.folder / 'run' / 'sql.pid'}",
            f"--port={PORTS['sql']}",
            "--bind-address=127.0.0.1",
            "--innodb-buffer-pool-size=64M",
        )
        wait_for("mariadbd", lambda: _listens(PORTS["sql"]), log=self.folder / "log" / "mariadbd.out")

    def _write_configuration(self) -> None:
        host, folder = socket.gethostname(), self.folder
        storage = (
            f"AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
            f"AccountingStoragePort={PORTS['dbd']}\nAccountingStoragePass={folder}/run/munge.socket\n"
            "AccountingStoreFlags=job_comment\nJobAcctGatherType=jobacct_gather/linux\nJobAcctGatherFrequency=1\n"
            "JobAcctGatherParams=OverMemoryKill\n"
            if self.accounting
            else "AccountingStorageType=accounting_storage/none\nJobAcctGatherType=jobacct_gather/none\n"
        )
        nodes = "".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={PORTS[node]} CPUs=2 RealMemory=64000{gres}\n"
            for node, gres in (("n1", ""), ("n2", ""), ("g1", " Gres=gpu:1"))
        )
        (folder / "slurm.conf").write_text(
            f"ClusterName=histomake\nSlurmctldHost={host}(127.0.0.1)\nSlurmUser=root\nSlurmctldPort={PORTS['ctld']}\n"
            f"AuthType=auth/munge\nAuthInfo=socket={folder}/run/munge.socket\nCredType=cred/munge\n"
            f"StateSaveLocation={folder}/state\nSlurmdSpoolDir={folder}/spool/%n\n"
            f"SlurmctldPidFile={folder}/run/slurmctld.pid\nSlurmdPidFile={folder}/run/slurmd-%n.pid\n"
            f"SlurmctldLogFile={folder}/log/slurmctld.log\nSlurmdLogFile={folder}/log/slurmd-%n.log\n"
            "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nMpiDefault=none\nSwitchType=switch/none\n"
            "SelectType=select/cons_tres\nSelectTypeParameters=CR_Core_Memory\nSlurmdParameters=config_overrides\n"
            "ReturnToService=2\nMinJobAge=300\nJobRequeue=0\nSlurmdTimeout=10\nKillWait=15\nGresTypes=gpu\nSchedulerParameters=sched_interval=1\n"
            f"{storage}{nodes}"
            "PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=2-0 State=UP\n"
            "PartitionName=gpu Nodes=g1 MaxTime=2-0 State=UP\n"
        )
        (folder / "gres.conf").write_text("NodeName=g1 Name=gpu File=/dev/null\n")
        database = folder / "slurmdbd.conf"
        database.write_text(
            f"AuthType=auth/munge\nAuthInfo=socket={folder}/run/munge.socket\nDbdHost=localhost\nDbdPort={PORTS['dbd']}\n"
            f"SlurmUser=root\nLogFile={folder}/log/slurmdbd.log\nPidFile={folder}/run/slurmdbd.pid\n"
            f"StorageType=accounting_storage/mysql\nStorageHost=127.0.0.1\nStoragePort={PORTS['sql']}\n"
            "StorageUser=root\nStorageLoc=slurm_acct\n"
        )
        database.chmod(0o600)
        SYSTEM_CONF.parent.mkdir(parents=True, exist_ok=True)
        if SYSTEM_CONF.exists() or SYSTEM_CONF.is_symlink():
            self._old_conf = SYSTEM_CONF.with_suffix(".conf.before-histomake")
            shutil.move(SYSTEM_CONF, self._old_conf)
        SYSTEM_CONF.symlink_to(folder / "slurm.conf")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
