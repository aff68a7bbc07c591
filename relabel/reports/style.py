"""The report's style sheet: light and dark, narrow and wide, screen and paper."""

from __future__ import annotations

import re
import unicodedata
from html import escape

from relabel.errors import shown

CSS = """
:root{--bg:#fff;--fg:#1b1f24;--soft:#59636e;--line:#d5dae0;--panel:#f5f7f9;--heat:#3d8fd1;
--bar:#2f74ad;--mark:#b3480a;--t0:var(--bar);--t1:#d98200;--t2:#12855f;--t3:#b0508f;--t4:#7a6ad8;
--t5:#8a8f96;--t6:#b8262f}
@media (prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e7eaee;--soft:#a3adb8;--line:#363d46;
--panel:#1d2127;--heat:#2a78b8;--bar:#62aee6;--mark:#ff9f5a;--t1:#f0a93b;--t2:#3fc495;
--t3:#e08fc2;--t4:#aa9df5;--t5:#9aa1aa;--t6:#ff7b7b}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif;
overflow-wrap:anywhere}
header,main{max-width:84rem;margin:0 auto;padding:0 1.25rem}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:0 2rem;
border-bottom:1px solid var(--line)}
h1{font-size:1.6rem;margin:1.2rem 0 .8rem;line-height:1.25}
h2{font-size:1.35rem;margin:2.5rem 0 .8rem;padding-top:.6rem;border-top:2px solid var(--fg)}
h3{font-size:1.08rem;margin:2rem 0 .5rem}
h4{font-size:.95rem;margin:1rem 0 .4rem}
nav ul,.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:0;padding:0}
a{color:var(--bar)}
:focus-visible{outline:2px solid var(--bar);outline-offset:2px}
small,.note{color:var(--soft)}
.note{margin:.3rem 0 .6rem;font-size:.9rem;max-width:46rem}
.scroll{overflow-x:auto}
caption{overflow-wrap:anywhere}
caption,.sub{text-align:left;font-size:.95rem;font-weight:700;margin:1rem 0 .4rem;padding:.4rem 0}
table{border-collapse:collapse;overflow-wrap:normal;font-variant-numeric:tabular-nums;font-size:.92rem}
th,td{padding:.32rem .65rem;border-bottom:1px solid var(--line);vertical-align:bottom;
unicode-bidi:plaintext}
td{text-align:left}
tbody>tr>*{vertical-align:baseline}
thead th{color:var(--soft);font-weight:600}
th{text-align:left;font-weight:500}
.num,td.num{text-align:right}
td.num{white-space:nowrap}td.num.long{white-space:normal}
th[scope=row]{white-space:nowrap}
.long,th.long[scope=row]{white-space:normal;overflow-wrap:anywhere;min-width:12rem;max-width:22rem}
.matrix td{min-width:3.6rem}.matrix tbody>tr>*{vertical-align:middle}
.matrix td small{display:block;font-size:.75rem;line-height:1.1;color:inherit;opacity:.85}
.matrix .heat{background:color-mix(in srgb,var(--heat) calc(var(--p)*.72),transparent)}
.matrix .heat.down{background:color-mix(in srgb,var(--mark) calc(var(--p)*.4),transparent)}
.matrix.plain td:last-child{color:inherit}.matrix.plain tr>:nth-last-child(2){border-left:0}
.matrix .empty,.matrix td:last-child{color:var(--soft)}
.matrix tr>:nth-last-child(2){border-left:2px solid var(--line)}
.fates td small{display:inline-block;min-width:3.4rem;margin-left:.3rem}
.fates tbody>tr:last-child>*{border-top:2px solid var(--line)}
.fates.plain tbody>tr:last-child>*{border-top:0}
.fates .empty{color:var(--soft)}.fates .empty::after{content:"";display:inline-block;width:3.7rem}
figure summary{font-size:.9rem;font-weight:500;margin:.4rem 0}
.matrix.new tbody>tr:last-child>*{border-top:2px solid var(--line)}
.upright thead .num span{display:inline-block;writing-mode:vertical-rl;transform:rotate(180deg);
max-height:12rem;text-align:left}
.upright thead .long{min-width:0}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,18rem),1fr));gap:1rem;
margin-bottom:1rem}
.chart{margin:0;padding:.7rem .8rem .3rem;background:var(--panel);border:1px solid var(--line);
border-radius:6px}
.chart figcaption{font-size:.9rem;font-weight:500}
.chart small{display:block;font-weight:400}
svg{display:block;width:100%;height:auto}
.chart svg{overflow:visible}
.share{border-radius:4px;overflow:hidden;margin:.6rem 0 .5rem}
.share svg{height:1.6rem}
.share path{stroke:var(--bg);stroke-width:1px;vector-effect:non-scaling-stroke}
.share+.legend{margin-bottom:1rem}
.legend{font-size:.9rem}
.legend i{display:inline-block;width:.85em;height:.85em;margin-right:.4em;border-radius:2px;
vertical-align:-.06em;box-shadow:0 0 0 1px rgb(0 0 0/.35)}
.tables{display:flex;flex-wrap:wrap;gap:.5rem 3rem;align-items:flex-start}
.tables>div{max-width:100%}
.keys>div{display:flex;gap:.8rem;margin:.2rem 0}
.keys strong{flex:0 0 3.5rem;font-size:.9rem}
main figure:not(.chart){margin:1rem 0 1.5rem}
main figure:not(.chart)>figcaption{font-size:.9rem;margin-bottom:.3rem;overflow-wrap:anywhere}
.twos{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,34rem),1fr));
gap:0 1.5rem;align-items:start}
.twos>*{min-width:0}
.ba{--cut:50%}
.switch{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;border:0;margin:0;padding:.15rem 0;
font-size:.9rem}
.switch legend{float:left;margin-right:1.1rem;padding:0;color:var(--soft)}
.switch input{margin:0 .35em 0 0;vertical-align:-.1em}
.switch label{min-height:1.5rem}
.panes{display:grid;position:relative;touch-action:pan-y}
.panes>*{grid-area:1/1;border-radius:3px}
.panes .one{clip-path:inset(0 calc(100% - var(--cut)) 0 0)}
.panes .two{clip-path:inset(0 0 0 var(--cut))}
.panes::after{content:"";position:absolute;inset:0 auto 0 var(--cut);width:3px;margin-left:-1.5px;
background:#fff;box-shadow:0 0 0 1px #000;pointer-events:none}
.ba:has([value=one]:checked) .one,.ba:has([value=two]:checked) .two{clip-path:none}
.ba:has([value=one]:checked) .two,.ba:has([value=two]:checked) .one{visibility:hidden}
.ba:has([value=one]:checked) .panes::after,.ba:has([value=two]:checked) .panes::after,
.ba:has([value=one]:checked) .cut,.ba:has([value=two]:checked) .cut{display:none}
.cut{display:none;width:100%;margin:.3rem 0;height:1.5rem;accent-color:var(--bar)}
.js .cut{display:block}
.panes text{font:600 15px system-ui,sans-serif;pointer-events:none}
.panes .side{fill:#fff;stroke:#000;stroke-width:4px;paint-order:stroke}
.box rect{fill:#000;fill-opacity:0;stroke:var(--c);stroke-width:2.5px;
vector-effect:non-scaling-stroke}
.box .seam{stroke:#000;stroke-width:4.5px}
.box.dashed .line{stroke-dasharray:7 5}
.box.ignored .line{stroke-dasharray:2 4;fill:#999;fill-opacity:.45}
.box.quiet .line,.box.quiet .seam{stroke-opacity:0}
.box:hover .line{fill:var(--c);fill-opacity:.22}
.box:focus{outline:none}
.box:focus .seam{stroke:#fff;stroke-width:9px;stroke-opacity:1}
.box:focus .line{stroke-opacity:1}
.tag rect{fill:var(--c);stroke:none}
#tip{position:fixed;z-index:9;max-width:min(24rem,92vw);padding:.4rem .6rem;font-size:.88rem;
background:#14171b;color:#fff;border:1px solid #777;border-radius:5px;pointer-events:none;
overflow-wrap:anywhere;visibility:hidden;left:0;top:0}
#tip.on{visibility:visible}
.sankey text{font:13px system-ui,sans-serif;fill:var(--fg)}
.sankey path{fill-opacity:.45}.sankey path:hover{fill-opacity:.85}
.sankey svg{min-width:34rem;max-width:60rem}
.chart details summary{font-size:.82rem;font-weight:400;color:var(--soft);margin:.2rem 0}
.chart details table{font-size:.8rem}
.paper{background:#fff}
.paper figcaption,.paper small{color:#222}
.figure{margin:1rem 0}
.figure .paper{min-width:36rem;max-width:58rem}
.figure figcaption{position:sticky;left:.8rem;width:min(100%,100vw - 5rem)}
.command{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--panel);
border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;margin:.6rem 0}
img{display:block;width:100%;height:auto;border-radius:3px}
summary{cursor:pointer;font-size:1.08rem;font-weight:600;margin:2rem 0 .5rem}
main{padding-bottom:3rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,11.5rem),1fr));
gap:.8rem;margin:1.2rem 0}
.tiles div{padding:.7rem .9rem;background:var(--panel);border:1px solid var(--line);
border-radius:6px}
.tiles strong{display:block;font-size:1.5rem;font-weight:600;line-height:1.2;
font-variant-numeric:tabular-nums}
.tiles span{font-size:.88rem;color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,17rem),1fr));gap:1rem;
align-items:stretch}
main .cards figure:not(.chart){margin:0;background:var(--panel);border:1px solid var(--line);
border-radius:6px;overflow:hidden}
.cards img{border-radius:0;aspect-ratio:4/3;object-fit:contain;
background:color-mix(in srgb,var(--fg) 10%,var(--panel))}
.charts.two{grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr))}
.charts.four{grid-template-columns:repeat(auto-fill,minmax(min(100%,15.5rem),1fr))}
.cards .panes svg{border-radius:0;aspect-ratio:4/3;
background:color-mix(in srgb,var(--fg) 10%,var(--panel))}
.cards .switch{padding:.35rem .75rem}
.cards .switch legend{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.cards .side{display:none}
.cards .cut{width:calc(100% - 1.5rem);margin:.3rem .75rem}
main .cards figure:not(.chart)>figcaption{padding:.55rem .75rem .65rem;margin:0}
.cards ul{list-style:none;margin:0 0 .35rem;padding:0}
.cards li{display:grid;grid-template-columns:.85rem 1fr auto;gap:.45rem;align-items:baseline;
padding:.08rem 0}
.cards li i{width:.8rem;height:.8rem;border-radius:2px;box-shadow:0 0 0 1px rgb(0 0 0/.35);
align-self:center}
.cards li i.none{background:none;box-shadow:inset 0 0 0 1px var(--soft);border-radius:50%}
.cards li i.known{background:var(--bar)}.cards li i.added{background:var(--t2)}
.cards li.faint{color:var(--soft)}
.cards li.own b::after{content:"original";font-size:.72rem;font-weight:500;margin-left:.45em;
padding:0 .35em;border:1px solid var(--line);border-radius:3px;color:var(--soft)}
.cards li span{font-variant-numeric:tabular-nums}
.cards li em{font-style:normal;font-size:.78rem;color:var(--soft);margin-left:.2em}
.cards li .wrong{color:var(--mark)}
.told .was{display:none}
.told:has([value=one]:checked) .was{display:inline}
.told:has([value=one]:checked) .now{display:none}
.told:has([value=one]:checked) li.new{color:var(--soft)}
.told:has([value=one]:checked) li.new i{background:none;box-shadow:inset 0 0 0 1px var(--soft);
border-radius:50%}
.cards p{margin:.15rem 0;color:var(--soft)}
td.bar{min-width:9rem;vertical-align:middle}
td.bar i{display:block;height:.75rem;border-radius:2px;background:var(--bar)}
@media print{:root{--bg:#fff;--fg:#000;--soft:#444;--line:#bbb;--panel:#fff;--bar:#2f74ad;
--heat:#3d8fd1}
body{font-size:10.5pt}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
figure,tr,.chart{break-inside:avoid}h2,h3,h4{break-after:avoid}.scroll{overflow:visible}
nav,.switch,.js .cut,.panes::after,#tip{display:none!important}
table{font-size:.78rem}th,td{padding:.2rem .3rem}.matrix td{min-width:0}
.sankey svg,.figure .paper{min-width:0}.figure figcaption{width:auto}
.told .was{display:none!important}.told .now{display:inline!important}
.panes{grid-template-columns:1fr 1fr;gap:.5rem}
.panes>.one,.panes>.two{grid-area:auto;clip-path:none!important;visibility:visible!important}}
"""


# Letters that are written from right to left, with what stands between them.
_LETTER = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
_RTL = re.compile(f"[{_LETTER}](?:[ \u200c\u200d{_LETTER}]*[{_LETTER}])?")
_NO_WIDTH = ("Mn", "Me", "Cf")


def escaped(text: str) -> str:
    """A text that may hold anything, as a part of a page."""
    return escape(shown(text))


def named(text: str) -> str:
    """The same of a name, which turns no text beside it around where it runs from right to left."""
    return f"<bdi>{escaped(text)}</bdi>"


def shortened(text: str, most: int) -> str:
    """A text in at most this many columns, as it may stand in a page; wide letters take two."""
    text, columns = shown(text), 0
    widths = [
        0
        if unicodedata.category(letter) in _NO_WIDTH
        else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    ]
    if sum(widths) <= most:
        return text
    for k, width in enumerate(widths):
        columns += width
        if columns > most - 1:
            return f"{text[:k]}…"
    return text


def isolated(text: str) -> str:
    """The same where elements cannot stand: in attributes, and in texts of an SVG."""
    return _RTL.sub("\u2068\\g<0>\u2069", escaped(text))
