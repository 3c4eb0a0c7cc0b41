"""Every form says what the plan says, and a form that does not is caught."""

import random
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from disagg_launch.layouts.table import FORMS
from disagg_launch.layouts.verify import disagreement
from disagg_launch.place import Cluster, Demand, layout
from disagg_launch.place.numbers import ranges
from disagg_launch.place.planner import assemble

sys.path.insert(0, str(Path(__file__).parents[2] / "e2e" / "layouts"))
from random_plans import plans


def planned(demands, cluster, name="t"):
    return assemble(name, demands, layout(demands, cluster), 8001, {"hostname": "localhost", "port": 8000, "node": 0})


def hosts_of(plan):
    return [f"gpu-{node}.cluster" for node in range(plan.node_count)]


UNEVEN = planned([Demand("ctx0", "context", 3), Demand("gen0", "generation", 6, 1), Demand("gen1", "generation", 2, 2)], Cluster(4))
EVEN = planned([Demand("ctx0", "context", 4), Demand("gen0", "generation", 4)], Cluster(4))


@pytest.mark.parametrize("name", FORMS)
def test_what_is_written_agrees(name):
    for plan in [UNEVEN, EVEN, *plans(seed=10, count=40)]:
        hosts = hosts_of(plan)
        assert disagreement(FORMS[name], FORMS[name].write(plan, hosts), plan, hosts) is None


def damaged(text, dice):
    """The text with one thing in it changed: a line lost, or a number or a host name other than it was."""
    lines = text.splitlines(keepends=True)
    telling = [i for i, line in enumerate(lines) if re.search(r"gpu-\d|ctx|gen|ntasks|--map-by", line) and "rank-scale" not in line]
    i = dice.choice(telling)
    kind = dice.choice(["lost", "host", "number"])
    if kind == "lost" and len(telling) > 1:
        return "".join(lines[:i] + lines[i + 1 :])
    if kind == "host" and "gpu-" in lines[i]:
        return "".join([*lines[:i], lines[i].replace("gpu-", "cpu-", 1), *lines[i + 1 :]])
    return "".join([*lines[:i], re.sub(r"\d+", lambda n: str(int(n[0]) + 1), lines[i], count=1), *lines[i + 1 :]])


@pytest.mark.parametrize("name", [name for name in FORMS if name not in ("svg", "html")])
def test_damage_is_caught(name):
    dice = random.Random(name)
    for plan in (UNEVEN, EVEN):
        hosts = hosts_of(plan)
        text = FORMS[name].write(plan, hosts)
        for _ in range(30):
            other = damaged(text, dice)
            if other.split() == text.split() or (name == "map-by" and "ppr" not in text):
                continue
            assert disagreement(FORMS[name], other, plan, hosts), other


@pytest.mark.parametrize("name", ["svg", "html"])
def test_a_picture_with_a_box_lost_moved_or_renamed_is_caught(name):
    hosts = hosts_of(UNEVEN)
    text = FORMS[name].write(UNEVEN, hosts)
    one = re.search(r"rank 5: [^<\"]*", text)[0]
    moved = re.sub(r"GPU (\d)", lambda gpu: f"GPU {(int(gpu[1]) + 1) % 4}", one)
    for other in ("", moved, one.replace("gen0", "gen1"), one.replace("rank 5", "rank 6", 1)):
        assert disagreement(FORMS[name], text.replace(one, other), UNEVEN, hosts)


@pytest.mark.parametrize("name", FORMS)
def test_another_plans_form_is_caught(name):
    hosts = hosts_of(UNEVEN)[:2]
    wrong = disagreement(FORMS[name], FORMS[name].write(EVEN, hosts), UNEVEN, hosts_of(UNEVEN))
    assert wrong


def test_both_rows_are_shown():
    hosts = hosts_of(UNEVEN)
    text = FORMS["rankfile"].write(UNEVEN, hosts).replace("rank 4=gpu-1", "rank 4=gpu-0")
    assert disagreement(FORMS["rankfile"], text, UNEVEN, hosts) == (
        "says     rank=4 host=gpu-0.cluster\n  plan has rank=4 host=gpu-1.cluster"
    )


def test_the_texts():
    hosts = ["a", "b"]
    assert FORMS["hostfile"].write(EVEN, hosts) == "a slots=4\nb slots=4\n"
    assert FORMS["machinefile"].write(EVEN, hosts) == "a:4\nb:4\n"
    assert FORMS["map-by"].write(EVEN, hosts) == "--hostfile hostfile --map-by ppr:4:node --rank-by slot --bind-to none\n"
    assert FORMS["slurm-hostfile"].write(EVEN, hosts) == "a\n" * 4 + "b\n" * 4
    assert FORMS["gpus"].write(EVEN, hosts).splitlines()[5] == "5 b CUDA_VISIBLE_DEVICES=1"
    assert FORMS["het-groups"].write(EVEN, hosts).splitlines() == [
        "#SBATCH --nodes=1 --ntasks-per-node=4 --gpus-per-node=4",
        "#SBATCH hetjob",
        "#SBATCH --nodes=1 --ntasks-per-node=4 --gpus-per-node=4",
    ]
    assert FORMS["csv"].write(EVEN, hosts).splitlines()[1] == "0,a,0,0,ctx0,context,0,0,0"


@pytest.mark.parametrize("name", ["hostfile", "rankfile", "gpus", "csv"])
def test_what_is_said_twice_is_a_disagreement(name):
    hosts = hosts_of(EVEN)
    lines = FORMS[name].write(EVEN, hosts).splitlines(keepends=True)
    assert "twice" in (disagreement(FORMS[name], "".join([*lines, lines[-1]]), EVEN, hosts) or "")


def test_names_are_escaped_in_pictures():
    plan = planned([Demand("ctx0", "context", 1)], Cluster(1), name="a<b>&'\"")
    for name in ("svg", "html"):
        text = FORMS[name].write(plan, ["h<1>"])
        assert "h<1>" not in text
        assert "a<b>" not in text


def test_each_box_of_the_drawing_is_where_its_title_says():
    root = ElementTree.fromstring(FORMS["svg"].write(UNEVEN, hosts_of(UNEVEN)))
    rows = {}
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        for told in rect:
            node, gpu = map(int, re.search(r"node (\d+) .* GPU (\d+)", told.text).groups())
            rows.setdefault(node, {})[gpu] = (float(rect.get("x")), float(rect.get("y")), float(rect.get("width")))
    heights = [{y for _, y, _ in row.values()} for _, row in sorted(rows.items())]
    assert all(len(one) == 1 for one in heights)
    assert [min(one) for one in heights] == sorted(min(one) for one in heights)
    for row in rows.values():
        start = min(x - gpu * wide for gpu, (x, _, wide) in row.items())
        assert all(x == start + gpu * wide for gpu, (x, _, wide) in row.items())


class Elements(HTMLParser):
    """Which elements are open at the end, and what is fetched from elsewhere."""

    def __init__(self):
        super().__init__()
        self.fetched = []

    def handle_starttag(self, tag, attrs):
        self.fetched += [(tag, value) for name, value in attrs if name in ("src", "href")]


@pytest.mark.parametrize("count", [2, 300])
def test_the_page_needs_nothing_from_elsewhere(count):
    plan = planned([Demand(f"ctx{i}", "context", 4) for i in range(count)], Cluster(4))
    text = FORMS["html"].write(plan, hosts_of(plan))
    page = Elements()
    page.feed(text)
    assert page.fetched == []
    assert "url(" not in text
    assert "@import" not in text
    assert ("many" if count > 24 else "few") in text


def test_ranges():
    assert ranges([3, 1, 2, 7, 9, 8, 1]) == "1-3,7-9"
    assert ranges([]) == ""
