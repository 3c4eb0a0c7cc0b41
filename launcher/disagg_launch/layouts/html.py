"""The picture as one HTML page without anything from elsewhere: a card for each node, a cell for each GPU, coloured by instance."""

from __future__ import annotations

from html import escape
from typing import Iterator, Sequence

from disagg_launch.layouts.bars import Bar, bars
from disagg_launch.layouts.colours import classes, stylesheet
from disagg_launch.layouts.svg import FEW, summary, title
from disagg_launch.place.numbers import ranges
from disagg_launch.plan import Plan, shape

STYLE = """
*{box-sizing:border-box}
body{margin:0;padding:16px 20px;background:var(--paper);color:var(--ink);font:14px/1.4 system-ui,sans-serif;color-scheme:light dark}
h1{font-size:18px;margin:0}
p{margin:2px 0 12px;color:var(--faint)}
code,.node b,.node i{font-family:ui-monospace,monospace}
.bar{position:sticky;top:0;z-index:2;background:var(--paper);padding:8px 0;display:flex;gap:12px;align-items:center;flex-wrap:wrap}
.bar input{font:inherit;padding:4px 8px;border:1px solid var(--line);border-radius:4px;background:var(--paper);color:var(--ink)}
.bar output{color:var(--faint);min-height:1.4em}
.key{display:inline-block;width:12px;height:12px;border-radius:2px;margin:0 4px 0 14px;vertical-align:-1px}
.node{display:flex;align-items:stretch;content-visibility:auto}
.node b{font-weight:normal;color:var(--faint);white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.node i{font-style:normal;position:relative;border:1px solid var(--paper);border-radius:3px;overflow:hidden}
.node i.e{background:var(--hole)}
.off i:not(.on){opacity:.15}
.few .node{margin-bottom:6px}
.few b{width:9em;align-self:center}
.few i{flex:0 1 92px;min-width:44px;padding:3px 6px;font-size:12px;height:42px;line-height:17px}
.few i s{display:block;text-decoration:none;opacity:.75;font-size:11px}
.many{display:grid;grid-template-columns:repeat(auto-fill,minmax(var(--card),1fr));gap:2px 14px}
.many .node{height:15px;contain-intrinsic-height:15px}
.many b{flex:0 0 var(--name);font-size:10px;line-height:15px;padding-right:4px;text-align:right}
.many i{flex:0 0 14px;height:14px;border-radius:2px}
.many i[data-name]{overflow:visible;z-index:1}
.many i[data-name]::before{content:attr(data-name);position:absolute;left:1px;top:0;font-size:9px;line-height:12px;white-space:nowrap;pointer-events:none}
details{margin-top:18px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:2px 10px 2px 0;text-align:left;border-bottom:1px solid var(--line)}
"""  # noqa: E501

# Typing a name keeps only that instance's or host's cells bright; pointing at a cell says what it is.
SCRIPT = """
const all=document.querySelector('main'),say=document.querySelector('output'),find=document.querySelector('input');
find.addEventListener('input',()=>{const word=find.value.trim().toLowerCase();let n=0;all.classList.toggle('off',word!=='');
for(const cell of all.querySelectorAll('i')){const words=(cell.title||'').toLowerCase().split(/[^a-z0-9._-]+/);
const on=word!==''&&words.includes(word);cell.classList.toggle('on',on);n+=on}
say.textContent=word===''?'':n+' GPUs'});
all.addEventListener('pointerover',event=>{if(event.target.title)say.textContent=event.target.title});
"""


def page(plan: Plan, hosts: Sequence[str]) -> str:
    """Picture: nodes x GPUs coloured by instance, as one self-contained HTML page with search."""
    every = bars(plan)
    few = len(every) <= FEW
    name = max((len(hosts[bar.node]) for bar in every), default=0) * 6 + 8
    sizes = f"--name:{name}px;--card:{name + 14 * plan.gpus_per_node + 4}px"
    free = sum(run.size for bar in every for run in bar.runs if not run.ranks)
    colour = classes(plan)
    return "\n".join(
        (
            "<!DOCTYPE html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(plan.name)}: rank layout</title>',
            '<meta name="viewport" content="width=device-width">',
            f"<style>{stylesheet('background')}{STYLE}</style></head><body>",
            f"<h1>{escape(plan.name)}</h1>",
            f"<p>plan <code>{plan.digest}</code>: {escape(summary(plan, free))}</p>",
            '<div class="bar"><input type="search" placeholder="ctx0, a host, tp3 ..." aria-label="instance, host or coordinate">',
            '<span><span class="key c0"></span>context<span class="key g0"></span>generation<span class="key e" ',
            'style="background:var(--hole)"></span>free</span><output></output></div>',
            f'<main class="{"few" if few else "many"}" style="{sizes}">',
            *(_card(bar, hosts[bar.node], colour, few) for bar in every),
            "</main>",
            *_table(plan),
            f"<script>{SCRIPT}</script></body></html>\n",
        )
    )


def _card(bar: Bar, host: str, colour: dict[str, str], few: bool) -> str:
    cells = []
    for run in bar.runs:
        cells += ['<i class="e"></i>'] * (run.size - len(run.ranks))
        for i, rank in enumerate(run.ranks):
            said = escape(title(rank, host))
            # a name is written over the cells of its run if they are wide enough for it
            name = f' data-name="{escape(rank.instance)}"' if not few and i == 0 and len(rank.instance) * 6 <= run.size * 14 else ""
            text = f"{escape(rank.instance)}<s>tp{rank.tp_rank} pp{rank.pp_rank}</s>" if few else ""
            cells.append(f'<i class="{colour[rank.instance]}"{name} title="{said}">{text}</i>')
    return f'<div class="node"><b>{escape(host)}</b>{"".join(cells)}</div>'


def _table(plan: Plan) -> Iterator[str]:
    yield "<details><summary>Instances</summary><table>"
    yield "<tr><th>instance<th>role<th>ranks<th>tp<th>pp<th>nodes<th>port</tr>"
    for one in plan.instances:
        tp, pp = shape(plan, one.name)
        ranks = f"{one.first_rank}-{one.first_rank + one.size - 1}"
        yield f"<tr><td>{escape(one.name)}<td>{one.role}<td>{ranks}<td>{tp}<td>{pp}<td>{ranges(one.nodes)}<td>{one.port}</tr>"
    yield "</table></details>"
