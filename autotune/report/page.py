"""One page with everything in it: no address is loaded, colours follow light and dark, every name is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from autotune.report.figures import Chart
from autotune.report.lettering import clean
from autotune.report.palette import DARK, LIGHT
from autotune.report.svg import FONT, page_colors, paint_classes, to_svg

# whatever stood in a name: nothing is fetched
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"

_STYLE = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:1320px;padding:20px 24px 60px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;margin:.2em 0;overflow-wrap:anywhere}h2{font-size:1.2rem;margin:2em 0 .3em}
p{max-width:80ch;margin:.4em 0;overflow-wrap:anywhere}.lead{font-size:1.08rem}.note{color:var(--muted)}
.picked{border-left:4px solid var(--accent);padding:.1em 0 .1em .9em;margin:1em 0}
figure{margin:.6em 0 2em}figcaption{color:var(--muted);max-width:95ch;font-size:.92rem;margin-top:.2em}
svg{display:block;width:100%;height:auto}svg text{stroke:none}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{padding:.35em .7em;border-bottom:1px solid var(--grid);text-align:left;vertical-align:top}
td>bdi{display:block;width:max-content;max-width:40ch;overflow-wrap:anywhere}td.n,th.n{text-align:right;white-space:nowrap}
th{position:sticky;top:0;background:var(--paper)}th button{font:inherit;font-weight:600;color:inherit;background:none;
border:0;padding:0;cursor:pointer}th[aria-sort=ascending] button::after{content:" \\25B2"}
th[aria-sort=descending] button::after{content:" \\25BC"}
tr.front td:first-child{font-weight:700;color:var(--accent)}tr.picked td{background:var(--wash)}
tr.lit td{background:var(--grid)}
.mark[data-trial]{cursor:default}svg.lit .mark[data-trial]:not(.lit){opacity:.28}
#tip{position:fixed;z-index:9;display:none;max-width:34em;padding:.5em .8em;white-space:pre-line;pointer-events:none;
overflow-wrap:anywhere;font-size:.85rem;background:var(--paper);color:var(--ink);border:1px solid var(--axis);
border-radius:6px;box-shadow:0 3px 14px #0004}
"""

_SCRIPT = """
(function(){"use strict";
var tip=document.createElement("div");tip.id="tip";document.body.appendChild(tip);
document.querySelectorAll("svg .mark>title").forEach(function(t){t.parentNode.tip=t.textContent;t.remove()});
var lit=[];
function show(node,x,y){
 lit.forEach(function(n){n.classList.remove("lit")});lit=[];tip.style.display="none";
 if(!node)return;
 var number=node.getAttribute("data-trial");
 if(number!==null)document.querySelectorAll('[data-trial="'+number+'"]').forEach(function(n){
  [n,n.ownerSVGElement].forEach(function(m){if(m){m.classList.add("lit");lit.push(m)}})});
 if(!node.tip)return;
 tip.textContent=node.tip;tip.style.display="block";
 var w=tip.offsetWidth,h=tip.offsetHeight;
 tip.style.left=Math.max(4,Math.min(x+14,innerWidth-w-8))+"px";
 tip.style.top=(y+18+h>innerHeight?Math.max(4,y-h-12):y+18)+"px"}
function over(e){show(e.target.closest?e.target.closest(".mark,tr[data-trial]"):null,e.clientX,e.clientY)}
document.addEventListener("mousemove",over);document.addEventListener("click",over);
document.querySelectorAll("table.sortable").forEach(function(table){
 var heads=table.querySelectorAll("th");
 heads.forEach(function(head,column){head.querySelector("button").addEventListener("click",function(){
  var down=head.getAttribute("aria-sort")==="ascending",body=table.tBodies[0];
  heads.forEach(function(h){h.removeAttribute("aria-sort")});
  head.setAttribute("aria-sort",down?"descending":"ascending");
  Array.from(body.rows).sort(function(a,b){
   var p=a.cells[column],q=b.cells[column],x=p.getAttribute("data-v"),y=q.getAttribute("data-v");
   if(x===""||y==="")return(x==="")-(y==="");
   var c=x!==null&&y!==null?x-y:p.textContent.localeCompare(q.textContent);return down?-c:c
  }).forEach(function(row){body.appendChild(row)})})})});
})();
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: its cells, each a text or a number with its text; the trial's number; how it is shown."""

    cells: Sequence[str | tuple[float | int | None, str]]
    trial: int | None = None
    css: str = ""


def page(title: str, body: str) -> str:
    """A whole page; ``body`` is trusted HTML, made by the functions below."""
    style = (
        f":root{{color-scheme:light dark;{page_colors(LIGHT)}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{page_colors(DARK)}}}}}{_STYLE}svg{{font-family:{FONT}}}{paint_classes()}"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{style}</style></head>\n<body>\n{body}\n<script>{_SCRIPT}</script></body></html>\n"
    )


def figure_page(chart: Chart) -> str:
    """A page of one figure, small enough to be kept beside a run."""
    return page(chart.title, figure(chart))


def figure(chart: Chart) -> str:
    """A figure with its sentence of how to read it."""
    return (
        f'<figure id="{escape(chart.name)}">{to_svg(chart.scene)}'
        f"<figcaption>{_text(chart.caption)}</figcaption></figure>"
    )


def section(heading: str, *parts: str, unseen: bool = False) -> str:
    """A heading and what belongs under it; ``unseen``: the heading stands in a figure already, it is for screen readers."""
    css = ' class="unseen"' if unseen else ""
    return f"<section><h2{css}>{_text(heading)}</h2>\n{chr(10).join(parts)}</section>\n"


def paragraph(text: str, css: str = "") -> str:
    """A paragraph of a text."""
    return f'<p class="{css}">{_text(text)}</p>' if css else f"<p>{_text(text)}</p>"


def heading(text: str) -> str:
    """The page's own heading."""
    return f"<h1>{_text(text)}</h1>"


def table(headings: Sequence[tuple[str, bool]], rows: Sequence[Row]) -> str:
    """A table whose columns sort when their headings are pressed. headings: the words, and whether a column is numbers."""
    head = "".join(
        f'<th scope="col"{" class=n" if numbers else ""}><button type="button">{_text(words)}</button></th>'
        for words, numbers in headings
    )
    lines = []
    for row in rows:
        cells = "".join(
            f"<td><bdi>{_text(cell)}</bdi></td>"
            if isinstance(cell, str)
            else f'<td class="n" data-v="{"" if cell[0] is None else repr(cell[0])}">{_text(cell[1])}</td>'
            for cell in row.cells
        )
        number = "" if row.trial is None else f' data-trial="{row.trial}"'
        lines.append(f'<tr class="{escape(row.css)}"{number}>{cells}</tr>')
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _text(text: str) -> str:
    return escape(clean(text))
