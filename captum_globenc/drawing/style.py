"""CSS of token attributions: the colors of two themes, and the rules for all elements."""

__all__ = ["DARK", "LIGHT", "PAGE_STYLE", "PART_STYLE", "RULES"]

# Text on the strongest shade has a contrast above 5 to 1 in both themes. Orange and blue are distinct
# for color-blind readers, and negative contributions are also underlined.
LIGHT = """--page: #ffffff; --text: #1a1a1a; --quiet: #595959; --line: #d5d5d5;
  --for: 255 158 64; --against: 116 178 255; --share: 190 160 240;"""
DARK = """--page: #16181c; --text: #f2f2f2; --quiet: #b0b0b0; --line: #3d4148;
  --for: 150 72 0; --against: 22 84 166; --share: 104 70 160;"""
"""The colors of the two themes, as CSS declarations."""

RULES = """
.tokens { margin: 0; line-height: 2; overflow-wrap: anywhere; }
.tokens span { border-radius: .2rem; padding: .15rem .25rem; unicode-bidi: isolate; }
.for, .against, .share { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.for { background: rgb(var(--for) / var(--s)); }
.against { background: rgb(var(--against) / var(--s)); }
.share { background: rgb(var(--share) / var(--s)); }
.tokens .against { text-decoration: underline dotted; text-underline-offset: .25em; }
.shaded .tokens { white-space: pre-wrap; line-height: 1.9; }
.shaded .tokens + .tokens { border-inline-start: .2rem solid var(--line); padding-inline-start: .6rem;
  margin-top: .3rem; }
.shaded .tokens span { padding: .12rem .05rem; }
.shaded .tokens span:not([dir]) { unicode-bidi: normal; }
.shaded .special { font-size: .8em; border: 1px solid var(--line); margin: 0 .15rem;
  padding: .1rem .25rem !important; }
.shaded .noted { outline: 1px dashed var(--quiet); outline-offset: -1px; }
.shaded .unread { color: var(--quiet); text-decoration: line-through; }
.picture { display: grid; background: var(--picture) 0 0 / 100% 100% no-repeat; print-color-adjust: exact;
  -webkit-print-color-adjust: exact; }
.shaded .picture + .tokens { border: 0; padding: 0; }
.picture.image { aspect-ratio: var(--shape); max-width: 18rem; }
.shaded .picture.image { background-color: white; background-blend-mode: luminosity; }
.picture.sound { height: 6rem; }
.tokens.picture span { font-size: 0; padding: 0; border-radius: 0; min-width: 0; min-height: 0;
  overflow: hidden; }
.picture .for { background: rgb(var(--for) / calc(.8 * var(--s))); }
.picture .share { background: rgb(var(--share) / calc(.8 * var(--s))); }
.picture .against { background: repeating-linear-gradient(135deg, rgb(var(--against) / var(--s)) 0 2px,
  transparent 2px 5px), rgb(var(--against) / calc(.6 * var(--s))); }
.legend, .note { color: var(--quiet); font-size: .85rem; }
.note { margin: .1rem 0 0; }
.legend .key { white-space: nowrap; color: inherit; }
.scale { display: inline-block; width: min(8rem, 20vw); height: .8rem; vertical-align: middle;
  border: 1px solid var(--line); -webkit-print-color-adjust: exact; print-color-adjust: exact;
  margin: 0 .2rem; }
.shares { background: linear-gradient(to right, var(--page), rgb(var(--share))); }
.signed { background: linear-gradient(to right, rgb(var(--against)), var(--page), rgb(var(--for))); }
.scroll { overflow-x: auto; }
.numbers, .heat { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
.numbers th, .numbers td, .heat th, .heat td { text-align: right; font-weight: 400; }
.numbers th, .numbers td { padding: .1rem .8rem .1rem 0; }
.heat th, .heat td { padding: .1rem .35rem; }
.numbers tr > :first-child, .heat tr > :first-child { text-align: left; overflow-wrap: anywhere;
  min-width: 6rem; max-width: 16rem; }
.numbers tr:first-child th, .heat tr:first-child th { font-weight: 600; }
.squares { margin-top: .4rem; }
.squares td { font-size: 0; min-width: 1.3rem; border: 1px solid var(--page); }
.squares td:hover { outline: 2px solid var(--text); outline-offset: -1px; }
.squares tr:first-child th { writing-mode: vertical-rl; vertical-align: bottom; }
.squares tr > :first-child { writing-mode: horizontal-tb; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; max-width: min(22rem, 45vw); }
.bars { display: grid; grid-template-columns: fit-content(50%) 1fr auto; gap: .1rem .8rem; list-style: none;
  margin: .4rem 0 0; padding: 0; font-variant-numeric: tabular-nums; }
.bars li { display: grid; grid-column: 1 / -1; grid-template-columns: subgrid; margin: 0; align-items: center;
  overflow-wrap: anywhere; }
.bars i { height: .6rem; border-radius: .2rem; box-shadow: inset 0 0 0 1px var(--line);
  background: linear-gradient(to right, currentColor calc(100% * var(--s)), transparent 0); }
.bars .for { color: rgb(var(--for)); } .bars .against { color: rgb(var(--against)); }
.bars .share { color: rgb(var(--share)); }
.bars span:last-child { text-align: right; }
"""
"""The rules for all elements; the page must define the colors."""

_SECTIONS = """h3 { font-size: .85rem; font-weight: 600; color: var(--quiet); margin: .8rem 0 .2rem; }
section { border-top: 1px solid var(--line); padding: 1.2rem 0; }
details { margin-top: .8rem; } summary { cursor: pointer; color: var(--quiet); font-size: .85rem; }
"""

PAGE_STYLE = f"""
:root {{ color-scheme: light dark; {LIGHT} }}
@media (prefers-color-scheme: dark) {{
  :root {{ {DARK} }}
}}
body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin: 0; overflow-wrap: anywhere; }}
{_SECTIONS}{RULES}"""
"""The CSS of a standalone page."""

# The theme of a notebook is unknown, so the part sets its own background.
PART_STYLE = f"""
.globenc-part {{ {LIGHT} background: var(--page); color: var(--text); padding: .4rem .8rem; }}
@media (prefers-color-scheme: dark) {{
  .globenc-part {{ {DARK} }}
}}
.globenc-part {{
h2 {{ font-size: 1.1rem; margin: 0; overflow-wrap: anywhere; }}
{_SECTIONS}.numbers {{ margin: 0; }} :is(table, tr, th, td) {{ border: 0; background: none; color: inherit; }}
{RULES}}}
"""
"""The CSS of a part of another page, with rules for one of its elements."""
