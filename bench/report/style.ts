// How the report looks: colors for light, dark and paper; one column on a phone.

export const style = `
:root { --ground: #fff; --ink: #1c2126; --soft: #5b6570; --line: #d9dee3; --own: #0a66c2; --other: #9aa7b4; --range: #1c2126;
  --s0: #0a66c2; --s1: #8a5a00; --s2: #6b7783; --aim: #b3261e;
  --good: #17733a; --bad: #b3261e; --warn: #fff4d6; --warn-ink: #5c4400; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181c; --ink: #e6eaee; --soft: #9aa5b0; --line: #313a43; --own: #5aa9ff;
  --s0: #5aa9ff; --s1: #e0a64a; --s2: #9aa5b0; --aim: #ff8a80; --other: #66727e; --range: #e6eaee; --good: #6fd08c; --bad: #ff8a80; --warn: #3a3115; --warn-ink: #f2dc9b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 1.2rem 1rem 3rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .3rem; border-top: 1px solid var(--line); padding-top: 1.2rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .2rem; }
a { color: var(--own); }
nav { margin-top: .7rem; } nav a { display: inline-block; margin-right: 1.2rem; }
.facts, .note, small { color: var(--soft); }
.facts { margin: .1rem 0; font-size: .87rem; overflow-wrap: anywhere; }
.caution { background: var(--warn); color: var(--warn-ink); border-radius: 4px; padding: .35rem .7rem; margin: .5rem 0; font-size: .9rem; }
.promises { columns: 2 26rem; column-gap: 2.4rem; } .promises > div { break-inside: avoid; padding-bottom: .8rem; }
.ratios { width: 100%; } .aimed { white-space: nowrap; } .promises h3 { margin-top: 0; } .ratios td:first-child { overflow-wrap: anywhere; }
ul.facts, ul.caution { padding-left: 1.6rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); gap: 1.1rem 1.6rem; margin: 1.2rem 0; }
figure { margin: 0; break-inside: avoid; }
figcaption { font-weight: 600; font-size: .92rem; }
figcaption small { font-weight: 400; margin-left: .6rem; }
svg { display: block; width: 100%; height: auto; max-width: 520px; font: 11px system-ui, sans-serif; }
svg text { fill: var(--ink); }
svg .value { paint-order: stroke; stroke: var(--ground); stroke-width: 3px; stroke-linejoin: round; }
svg .label.other, svg .tick { fill: var(--soft); }
svg .label.own { font-weight: 600; }
svg .mark.own { fill: var(--own); }
svg .mark.other { fill: var(--other); }
svg .range { stroke: var(--range); stroke-width: 1.5; opacity: .75; }
svg .aim { stroke: var(--aim); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg .curve { fill: none; stroke-width: 2; } svg .curve.s0 { stroke: var(--s0); } svg .curve.s1 { stroke: var(--s1); }
svg .curve.s2 { stroke: var(--s2); } svg .dot.s0 { fill: var(--s0); } svg .dot.s1 { fill: var(--s1); } svg .dot.s2 { fill: var(--s2); }
figure .note { margin: .2rem 0 0; font-size: .82rem; max-width: 520px; }
.words { display: block; font-size: .92em; } .ratios small { font-size: .92em; }
svg .grid { stroke: var(--line); stroke-width: 1; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; margin: .4rem 0; }
th, td { text-align: left; padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { vertical-align: bottom; }
tbody th { font-weight: 400; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.number small { display: block; font-size: .74rem; }
.yes { color: var(--good); } .no { color: var(--bad); }
summary { cursor: pointer; margin: .6rem 0; }
code { font-size: .86em; }
@media print { :root { --ground: #fff; --ink: #000; --soft: #444; --line: #bbb; --own: #0a4f96; --s0: #0a4f96; --s1: #7a4d00; --s2: #666; --aim: #900; --other: #a9b3bd; --range: #000; --warn: #fff; }
  body { max-width: none; font-size: 10pt; padding: 0; } nav, details:not([open]) { display: none; }
  .plots { grid-template-columns: 1fr 1fr; }
  .caution { border: 1px solid #888; } h2, h3, thead { break-after: avoid; } section + section { break-before: page; } .wide { overflow: visible; } table { font-size: 7pt; } table.ratios { font-size: 9pt; }
  .promises { columns: 1; } .promises > div { break-inside: auto; } tr { break-inside: avoid; } }
`
