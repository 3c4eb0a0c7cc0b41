"""Our host list grammar says what Slurm's own says."""

import random
import subprocess

from slurm_hosts import Cluster

from disagg_launch.errors import BadInput
from disagg_launch.hostlist import compress, expand

ROUNDS = 300


def ours(text: str) -> list[str] | None:
    try:
        return list(expand(text))
    except BadInput:
        return None


def test_expand_and_compress_agree_with_scontrol(cluster: Cluster) -> None:
    dice = random.Random(7)
    lists = [_list(dice) for _ in range(ROUNDS)]
    names = [ours(text) or ["spare"] for text in lists]
    # one process for all: a start of scontrol for each would take minutes
    script = 'for x; do scontrol show "$kind" "$x" 2>/dev/null | tr "\\n" " "; echo; done'
    shown = _shell(cluster, "kind=hostnames; " + script, lists)
    for text, theirs in zip(lists, shown):
        assert (ours(text) or []) == theirs.split(), text
    for given, theirs in zip(names, _shell(cluster, "kind=hostlist; " + script, [",".join(n) for n in names])):
        assert compress(given) == theirs.strip(), given


def _shell(cluster: Cluster, script: str, words: list[str]) -> list[str]:
    done: subprocess.CompletedProcess[str] = cluster.login("bash", "-c", script, "bash", *words)
    return done.stdout.splitlines()


def _list(dice: random.Random) -> str:
    return ",".join(_entry(dice) for _ in range(dice.randint(1, 4)))


def _entry(dice: random.Random) -> str:
    prefix = dice.choice(["n", "gpu-", "r1n", "x0y", "a.b-"])
    kind = dice.randrange(4)
    if kind == 0:
        return prefix + dice.choice(["", "7", "007", "12"])
    if kind == 1:
        return f"{prefix}[{_ranges(dice)}]" + dice.choice(["", "", "", "x"])
    if kind == 2:
        return f"{prefix}[{_ranges(dice)}]{dice.choice(['-', 's'])}[{_ranges(dice)}]"
    return f"{prefix}[{dice.choice(['', 'a-b', '3-1', '1-x', '1,,2'])}]"


def _ranges(dice: random.Random) -> str:
    out = []
    for _ in range(dice.randint(1, 3)):
        first = dice.randrange(120)
        width = dice.choice([0, 0, 2, 3])
        last = f"-{str(first + dice.randrange(4)).zfill(dice.choice([0, width]))}" if dice.random() < 0.7 else ""
        out.append(str(first).zfill(width) + last)
    return ",".join(out)
