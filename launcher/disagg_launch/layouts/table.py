"""The table of forms: for each its file name, its writer and its reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Sequence

from disagg_launch.layouts import forms, html, readers, svg
from disagg_launch.plan import Plan


@dataclass(frozen=True)
class Form:
    """One form of a layout. `write(plan, hosts by node number)` gives its text, `read(text)` the claims in it."""

    file: str
    write: Callable[[Plan, Sequence[str]], str]
    read: readers.Reader

    @property
    def about(self) -> str:
        """One line: what it is, and who reads it."""
        return (self.write.__doc__ or "").splitlines()[0]


FORMS = {
    "hosts": Form("hosts", forms.host_list, readers.host_list),
    "hostfile": Form("hostfile", forms.hostfile, readers.hostfile),
    "rankfile": Form("rankfile", forms.rankfile, readers.rankfile),
    "map-by": Form("map-by", forms.map_by, readers.map_by),
    "appfile": Form("appfile", forms.appfile, readers.appfile),
    "machinefile": Form("machinefile", forms.machinefile, readers.machinefile),
    "slurm-hostfile": Form("slurm-hostfile", forms.sequence, readers.sequence),
    "multi-prog": Form("multi-prog", forms.multi_prog, readers.multi_prog),
    "het-groups": Form("het-groups", forms.het_groups, readers.het_groups),
    "gpus": Form("gpus", forms.gpus, readers.gpus),
    "text": Form("layout.txt", forms.table_text, readers.table_text),
    "csv": Form("layout.csv", forms.table_csv, readers.table_csv),
    "json": Form("layout.json", forms.table_json, readers.table_json),
    "svg": Form("layout.svg", svg.picture, readers.svg),
    "html": Form("layout.html", html.page, readers.html),
}
