"""DL046 and DL047: TLS at the front door."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from urllib.parse import urlsplit

from disagg_launch.engines.servers import TLS_FILES, tls_files
from disagg_launch.lint.rule import ERROR, WARNING, Case, Finding, rule

OPTIONS = ("router", "options")


@rule(
    "DL046",
    ERROR,
    "The front door cannot speak TLS as it is asked to",
    why="It ends as soon as it is started, or workers do not find it.",
    fix="Name a certificate and its key in PEM form; quiet this rule if they are on the front door's node only.",
    source="docs/router.md",
)
def front_door_tls(case: Case) -> Iterator[Finding]:
    files, cluster = tls_files(case.spec), case.spec.disagg_cluster
    missing = [key for key in TLS_FILES if key not in files]
    if not files:
        return
    if missing:
        yield (*OPTIONS, next(iter(files))), f"found no {missing[0]} beside it; needed: both"
    else:
        yield from _unusable(files)
    if case.spec.router.options.get("plain_address"):
        yield (*OPTIONS, "plain_address"), "found it in a topology file; the launcher chooses it, or takes `admin_port`"
    uri = urlsplit(cluster.cluster_uri if cluster else "")
    if uri.scheme.startswith("http") and uri.port == case.spec.port:
        text = "where clients come by TLS; needed: `auto`, or the front door's `admin_port`"
        yield ("disagg_cluster", "cluster_uri"), f"found {cluster.cluster_uri if cluster else ''}, {text}"


def _unusable(files: dict[str, str]) -> Iterator[Finding]:
    """What is wrong with a certificate and its key, if they are to be had at all."""
    found = [((*OPTIONS, key), f"found {path}: {why}") for key, path in files.items() if (why := _unreadable(path))]
    yield from found
    if found:
        return
    import ssl  # here: every start of `plan` would pay for it

    from disagg_launch import keypair

    try:
        keypair.load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files["tls_cert_file"], files["tls_key_file"])
    except keypair.WrongPair as wrong:
        yield (*OPTIONS, wrong.option), str(wrong)


def _unreadable(path: str) -> str:
    try:
        with open(path, "rb"):
            return ""
    except OSError as wrong:
        return str(wrong.strerror)


@rule(
    "DL047",
    WARNING,
    "Others can read the key of the front door's certificate",
    why="Who has it can pass for the front door, and read along.",
    fix="`chmod 600` the file.",
    source="OpenSSH refuses such keys",
)
def key_kept_private(case: Case) -> Iterator[Finding]:
    path = tls_files(case.spec).get("tls_key_file", "")
    try:
        mode = os.stat(path).st_mode if path else 0
    except OSError:
        return
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield (*OPTIONS, "tls_key_file"), f"found {path} with mode {stat.S_IMODE(mode):o}; wanted: 600"
