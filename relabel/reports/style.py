"""The report's style sheet: light and dark, narrow and wide, screen and paper."""

from __future__ import annotations

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
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
header,main{max-width:84rem;margin:0 auto;padding:0 1.25rem}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:0 2rem;
border-bottom:1px solid var(--line)}
h1{font-size:1.6rem;margin:1.2rem 0 .8rem;line-height:1.25}
h2{font-size:1.35rem;margin:2.5rem 0 .8rem;padding-top:.6rem;border-top:2px solid var(--fg)}
h3{font-size:1.08rem;margin:2rem 0 .5rem}
h4{font-size:.95rem;margin:1rem 0 .4rem}
nav ul,.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:0;padding:0}
a{color:var(--bar)}
small,.note{color:var(--soft)}
.note{margin:.3rem 0 .6rem;font-size:.9rem;max-width:46rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem}
th,td{padding:.32rem .65rem;border-bottom:1px solid var(--line);vertical-align:bottom}
thead th{color:var(--soft);font-weight:600}
th{text-align:left;font-weight:500}
.num{text-align:right}
th[scope=row]{white-space:nowrap}
.matrix td{min-width:3.6rem}.matrix tbody>tr>*{vertical-align:middle}
.matrix td small{display:block;font-size:.75rem;line-height:1.1;color:inherit;opacity:.85}
.matrix .heat{background:color-mix(in srgb,var(--heat) calc(var(--p)*.72),transparent)}
.matrix .empty,.matrix td:last-child{color:var(--soft)}
.matrix tr>:nth-last-child(2){border-left:2px solid var(--line)}
.fates td small{display:inline-block;min-width:3.4rem;margin-left:.3rem}
.fates tbody>tr:last-child>*{border-top:2px solid var(--line)}
.fates .empty{color:var(--soft)}.fates .empty::after{content:"";display:inline-block;width:3.7rem}
figure summary{font-size:.9rem;font-weight:500;margin:.4rem 0}
.matrix.new tbody>tr:last-child>*{border-top:2px solid var(--line)}
.upright thead .num span{writing-mode:vertical-rl;transform:rotate(180deg);white-space:nowrap}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,18rem),1fr));gap:1rem}
.chart{margin:0;padding:.7rem .8rem .3rem;background:var(--panel);border:1px solid var(--line);
border-radius:6px}
.chart figcaption{font-size:.9rem;font-weight:500}
.chart small{display:block;font-weight:400}
svg{display:block;width:100%;height:auto}
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
.pair{display:grid;grid-template-columns:1fr 1fr;gap:.8rem}
.pair span{display:block;font-size:.85rem;color:var(--soft)}
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
.cards li em{font-style:normal;font-size:.78rem;color:var(--soft);margin-left:.45em}
.cards li .wrong{color:var(--mark)}
.cards p{margin:.15rem 0;color:var(--soft)}
td.bar{min-width:9rem;vertical-align:middle}
td.bar i{display:block;height:.75rem;border-radius:2px;background:var(--bar)}
@media (max-width:40rem){.pair{grid-template-columns:1fr}}
@media print{:root{--bg:#fff;--fg:#000;--soft:#444;--line:#bbb;--panel:#fff;--bar:#2f74ad;
--heat:#3d8fd1}
body{font-size:10.5pt}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
figure,tr,.chart{break-inside:avoid}h2,h3,h4{break-after:avoid}.scroll{overflow:visible}
nav{display:none}}
"""


def escaped(text: str) -> str:
    """A text that may hold anything, as a part of a page."""
    return escape(shown(text))
