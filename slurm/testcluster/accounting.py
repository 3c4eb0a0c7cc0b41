"""slurmdbd and a MariaDB of its own, so that sacct answers. Optional: it takes some seconds and about 100 MB."""

from __future__ import annotations

from collections.abc import Callable

import hosts
from description import Cluster

Login = Callable[..., str]


def start(cluster: Cluster, login: Login) -> None:
    """Start the database and slurmdbd on the login host, and add the cluster with one account."""
    root = cluster.folder
    place = [f"--datadir={root}/db", "--user=root"]
    login("mariadb-install-db", "--no-defaults", *place, "--auth-root-authentication-method=normal", "--skip-test-db")
    # root has no password: the database listens on the login host's own loopback only
    argv = [
        "mariadbd",
        "--no-defaults",
        *place,
        f"--socket={root}/db.sock",
        "--bind-address=127.0.0.1",
        f"--pid-file={root}/run/mariadbd.pid",
    ]
    argv += ["--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin"]
    hosts.spawn(cluster, cluster.controller, argv, root / "log/mariadbd.log")
    ask = ("mariadb", "--no-defaults", f"--socket={root}/db.sock", "-uroot", "-e", "select 1")
    hosts.wait_until(lambda: _succeeds(login, *ask), 30, f"mariadbd did not start: see {root}/log/mariadbd.log")
    login("slurmdbd")
    ask = ("timeout", "5", "sacctmgr", "-n", "list", "cluster")
    hosts.wait_until(lambda: _succeeds(login, *ask), 30, f"slurmdbd did not start: see {root}/log/slurmdbd.log")
    for words in (f"cluster {cluster.name}", "account test Description=test Organization=test", "user root Account=test"):
        login("timeout", "10", "sacctmgr", "-i", "add", *words.split())


def _succeeds(login: Login, *argv: str) -> bool:
    try:
        login(*argv)
    except SystemExit:
        return False
    return True
