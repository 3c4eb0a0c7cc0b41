"""What each form says, read back without the code that wrote it.

A reader gives claims: maps that name what they are about first ("rank", "host", "node", "part", "mapping") and then what is said of it.
ValueError if the text is not of that form.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from html.parser import HTMLParser
from typing import Any, Callable, Iterator, Mapping, Optional
from xml.etree import ElementTree

Claim = dict[str, Any]
Reader = Callable[[str], Iterator[Claim]]
NUMBERS = ("rank", "node", "gpu", "instance_rank", "tp_rank", "pp_rank")


def host_list(text: str) -> Iterator[Claim]:
    """Line n names node n."""
    for node, line in enumerate(text.splitlines()):
        yield {"node": node, "host": line.strip()}


def hostfile(text: str) -> Iterator[Claim]:
    """Slots per host."""
    for line in _lines(text):
        host, slots = _match(r"(\S+)\s+slots=(\d+)", line)
        yield {"host": host, "ranks": int(slots)}


def rankfile(text: str) -> Iterator[Claim]:
    """The host of each rank."""
    for line in _lines(text):
        rank, host = _match(r"rank\s+(\d+)\s*=\s*(\S+)\s+slot=\*", line)
        yield {"rank": int(rank), "host": host}


def sequence(text: str) -> Iterator[Claim]:
    """Line n is the host of rank n."""
    for rank, line in enumerate(_lines(text)):
        yield {"rank": rank, "host": line}


def machinefile(text: str) -> Iterator[Claim]:
    """Ranks are counted through the lines."""
    rank = 0
    for line in _lines(text):
        host, count = _match(r"([^\s:]+):(\d+)", line)
        for _ in range(int(count)):
            yield {"rank": rank, "host": host}
            rank += 1


def map_by(text: str) -> Iterator[Claim]:
    """The policy; with ppr how many ranks each host has. With seq its file says where the ranks are."""
    words = shlex.split(text)
    policy, _, count = words[words.index("--map-by") + 1].removesuffix(":node").partition(":")
    yield {"mapping": policy, **({"ranks": int(count)} if count else {})}


def appfile(text: str) -> Iterator[Claim]:
    """Ranks are counted through the application contexts."""
    rank = 0
    for line in _lines(text):
        words = shlex.split(line)
        host, slots = words[words.index("--host") + 1].rsplit(":", 1)
        count = int(words[words.index("-np") + 1])
        if int(slots) != count:
            raise ValueError(f"{line!r} has {count} ranks in {slots} slots")
        for _ in range(count):
            yield {"rank": rank, "host": host}
            rank += 1


def multi_prog(text: str) -> Iterator[Claim]:
    """The instance of each task, and the plan's digest."""
    for line in _lines(text):
        numbers, *command = shlex.split(line)
        instance = command[1].removeprefix("DISAGG_INSTANCE=")
        first, _, last = numbers.partition("-")
        for rank in range(int(first), int(last or first) + 1):
            yield {"rank": rank, "instance": instance, "digest": command[command.index("--digest") + 1]}


def het_groups(text: str) -> Iterator[Claim]:
    """Nodes, tasks and GPUs of each component."""
    for number, block in enumerate(text.split("#SBATCH hetjob\n")):
        said = dict(re.findall(r"--([a-z-]+)=(\d+)", block))
        yield {
            "part": number,
            **{key: int(said[option]) for key, option in (("nodes", "nodes"), ("tasks", "ntasks-per-node"), ("gpus", "gpus-per-node"))},
        }


def gpus(text: str) -> Iterator[Claim]:
    """Host and GPU of each rank."""
    for line in _lines(text):
        rank, host, gpu = _match(r"(\d+) (\S+) CUDA_VISIBLE_DEVICES=(\d+)", line)
        yield {"rank": int(rank), "host": host, "gpu": int(gpu)}


def table_text(text: str) -> Iterator[Claim]:
    """All of each rank's row."""
    head, *rows = _lines(text)
    for row in rows:
        yield _numbers(dict(zip(head.split(), row.split())))


def table_csv(text: str) -> Iterator[Claim]:
    """All of each rank's row."""
    return map(_numbers, csv.DictReader(io.StringIO(text)))


def table_json(text: str) -> Iterator[Claim]:
    """All of each rank's row."""
    rows: list[Claim] = json.loads(text)
    return iter(rows)


def svg(text: str) -> Iterator[Claim]:
    """The rank on each GPU, from the titles of the drawing's boxes."""
    for element in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}title"):  # noqa: S314
        if element.text and element.text.startswith("rank "):
            yield _title(element.text)


def html(text: str) -> Iterator[Claim]:
    """The rank on each GPU, from the titles of the page's cells."""
    page = _Page()
    page.feed(text)
    page.close()
    return map(_title, page.titles)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.titles: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Optional[str]]]) -> None:
        self.titles += [value for name, value in attrs if name == "title" and value and value.startswith("rank ")]


def _title(text: str) -> Claim:
    """`rank 4: gen0 rank 0 (tp0 pp0) on node 1 (host) GPU 0`."""
    rank, instance, inside, tp, pp, node, host, gpu = _match(
        r"rank (\d+): (\S+) rank (\d+) \(tp(\d+) pp(\d+)\) on node (\d+) \((\S+)\) GPU (\d+)", text
    )
    names = ("rank", "instance", "instance_rank", "tp_rank", "pp_rank", "node", "host", "gpu")
    return _numbers(dict(zip(names, (rank, instance, inside, tp, pp, node, host, gpu))))


def _numbers(row: Mapping[str, str]) -> Claim:
    return {key: int(value) if key in NUMBERS else value for key, value in row.items()}


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _match(pattern: str, line: str) -> tuple[str, ...]:
    found = re.fullmatch(pattern, line)
    if not found:
        raise ValueError(f"{line!r} is not of the form {pattern}")
    return found.groups()
