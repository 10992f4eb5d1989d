"""The style sheet of the report: no fonts and files from elsewhere, light and dark, screens and paper."""

CSS = """
:root { color-scheme: light dark; --text: #1c2024; --muted: #60646c; --line: #e1e4e8; --card: #f6f7f9; --page: #ffffff;
  --accent: 37 99 235; --on-accent: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --muted: #9aa1a9; --line: #2c3138; --card: #1a1e23;
  --page: #111417; --accent: 96 165 250; --on-accent: #0b1220; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0 0 1.25rem; font-size: 1.7rem; line-height: 1.2; }
h2 { margin: 2.75rem 0 .9rem; padding-bottom: .3rem; font-size: 1.15rem; border-bottom: 1px solid var(--line); }
h3 { margin: 1.4rem 0 .5rem; font-size: 1rem; }
p { margin: .4rem 0; }
.note, .unit { color: var(--muted); font-size: .87rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); gap: .7rem; }
.tile { padding: .7rem .9rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
.tile b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile:first-child { background: rgb(var(--accent)); border-color: rgb(var(--accent)); color: var(--on-accent); }
.tile:first-child .unit { color: inherit; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
svg { width: 100%; max-width: 34rem; height: auto; }
svg * { stroke-linejoin: round; }
.swatch { display: inline-block; flex: none; width: .85em; height: .85em; margin-right: .5em; vertical-align: -.08em;
  border-radius: .2em; box-shadow: inset 0 0 0 1px rgb(128 128 128 / .55); }
.bars { columns: 30rem; column-gap: 2.5rem; }
.bar { display: grid; grid-template-columns: minmax(6rem, 9rem) 1fr 3.4rem 4.2rem; gap: .7rem; align-items: center;
  padding: .16rem 0; break-inside: avoid; }
.bar .name { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bar b { text-align: right; font-variant-numeric: tabular-nums; }
.track { height: .95rem; background: var(--card); border-radius: .2rem; }
.fill { height: 100%; border-radius: .2rem; box-shadow: inset 0 0 0 1px rgb(128 128 128 / .55); }
.confusion { display: flex; flex-wrap: wrap; gap: 1rem 3.5rem; }
.confusion > div { max-width: 100%; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
.matrix { font-size: .8rem; font-variant-numeric: tabular-nums; }
.matrix th { padding: .1rem .5rem; font-weight: 500; text-align: right; white-space: nowrap; }
.matrix thead th { padding: .4rem 0; vertical-align: bottom; text-align: left; }
.matrix thead th span { writing-mode: vertical-rl; transform: rotate(180deg); }
.matrix td { width: 2.7rem; min-width: 2.1rem; height: 2.1rem; text-align: center; border: 1px solid var(--page);
  background: rgb(var(--accent) / var(--share)); }
.matrix td.high { color: var(--on-accent); }
.matrix td.none { color: var(--muted); }
img { display: block; width: 100%; height: auto; border-radius: .25rem; }
.confusion .note { max-width: 34rem; }
.large { width: 34rem; max-width: 100%; image-rendering: pixelated; border: 1px solid var(--line); }
.listing td, .listing th { padding: .15rem 1rem .15rem 0; text-align: left; vertical-align: top; }
.listing .number { text-align: right; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .6rem 0 1rem; font-size: .87rem; }
.example { display: grid; grid-template-columns: repeat(4, 1fr); gap: .5rem; margin: 0 0 1.3rem; break-inside: avoid; }
.example figcaption { grid-column: 1 / -1; }
.example .unit { display: block; }
.map, .void { background: repeating-linear-gradient(45deg, var(--line) 0 4px, var(--card) 4px 8px); }
.map { image-rendering: pixelated; }
.errors { background-size: 100% 100%; }
.settings { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 0 2rem; }
.settings td { overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
@media (max-width: 46rem) { .example { grid-template-columns: repeat(2, 1fr); } }
@media print { body { max-width: none; padding: 0; print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
""".strip()
