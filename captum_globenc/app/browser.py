"""The browser's part of the web demo: its style, its content security policy and its scripts."""

import json

from captum_globenc.app.form import Form
from captum_globenc.drawing.style import DARK, LIGHT, RULES

__all__ = ["BEGIN", "BEGIN_RESTORED", "DOWNLOAD", "END", "KEEP", "POLICY", "READ", "REMEMBER", "STYLE"]


# Gradio marks its dark theme with a class, not with a media query.
STYLE = f"""
#about {{ font-size: .85rem; opacity: .85; }}
.globenc {{ {LIGHT} color: var(--text); }} .dark .globenc {{ {DARK} }}
.globenc h3 {{ font-size: .85rem; font-weight: 600; color: var(--quiet); margin: .8rem 0 .2rem; }}
.globenc .prediction {{ font-size: 1.2rem; font-weight: 600; overflow-wrap: anywhere; margin: 0; }}
.globenc .message {{ border-left: .25rem solid rgb(var(--for)); padding: .2rem .6rem; margin: .4rem 0;
  overflow-wrap: anywhere; }}
.globenc .scroll {{ max-height: 30rem; overflow: auto; }}
.globenc :is(table, tr, th, td) {{ border: 0 !important; color: inherit; }}
.globenc summary {{ cursor: pointer; color: var(--quiet); font-size: .85rem; margin-top: .8rem; }}
{RULES}
.globenc .classes {{ display: grid; grid-template-columns: fit-content(50%) 1fr auto; gap: .1rem .8rem;
  list-style: none; margin: .4rem 0 0; padding: 0; font-variant-numeric: tabular-nums; }}
.globenc .classes li {{ display: grid; grid-column: 1 / -1; grid-template-columns: subgrid; margin: 0;
  align-items: center; overflow-wrap: anywhere; }}
.globenc .classes i {{ height: .6rem; border-radius: .2rem; box-shadow: inset 0 0 0 1px var(--line);
  background: linear-gradient(to right, rgb(var(--share)) calc(100% * var(--part)), transparent 0); }}
.globenc .classes span {{ text-align: right; }}
.globenc.maps {{ display: flex; flex-wrap: wrap; gap: 0 1.5rem; }}
.globenc.maps section {{ min-width: 0; }}
.globenc .heat tr > :first-child {{ min-width: 4rem; max-width: 9rem; position: sticky; left: 0;
  background: var(--block-background-fill); }}
.globenc .heat {{ font-size: .8rem; }}
.globenc .heat td {{ padding: .1rem .25rem; }}
.globenc .heat:has(tr:first-child > :nth-child(10)) td {{ font-size: .7rem; padding: .1rem .2rem; }}
@media (max-width: 40rem) {{
  #answer {{ min-height: 100vh; }}
  #prediction [data-testid="status-tracker"] {{ align-items: flex-start; padding: 0; }}
  .globenc.maps {{ margin: 0 -.6rem; }}
  .globenc .heat {{ font-size: .65rem; }}
  .globenc .heat td, .globenc .heat th {{ padding: .1rem; }}
  .globenc .heat:has(tr:first-child > :nth-child(8)) {{ font-size: .58rem; letter-spacing: -.03em; }}
  .globenc .heat:has(tr:first-child > :nth-child(8)) :is(td, th) {{ padding: .1rem .06rem; }}
  .globenc .heat:has(tr:first-child > :nth-child(8)) tr > :first-child {{ min-width: 3rem; }}
}}"""
"""The rules of the page."""

POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'"
)
"""The content security policy: the browser itself refuses whatever would leave this server."""

# What is asked lies with the entry in the tab's own history: a refresh finds it, and no other tab does.
_FORM = f"""const form = values => Object.fromEntries(
  {json.dumps(Form._fields)}.map((name, index) => [name, String(values[index] ?? "")]));"""
KEEP = f"""(...values) => {{ {_FORM} history.replaceState(form(values), ""); }}"""
"""Keep the fields, in the order of `Form`, for a refresh."""
READ = "() => history.state"
"""Read the fields that were kept."""
REMEMBER = f"""(query, ...values) => {{ {_FORM}
  const here = new URL(query || location.pathname, location.href), link = query && here.href;
  for (const [name, value] of new URLSearchParams(location.search)) {{
    if (name.startsWith("__")) here.searchParams.append(name, value);  // Gradio's own, such as its theme
  }}
  history.replaceState(form(values), "", here);
  return link;
}}"""
"""Keep the fields, and make the query that restores the answer the page's address; gives the whole link."""

BEGIN = """() => {
  const answer = document.querySelector("#answer");
  answer.setAttribute("aria-busy", "true");
  if (answer.getBoundingClientRect().top > innerHeight / 2) {
    document.activeElement?.blur();  // which puts a phone's keyboard away
    answer.scrollIntoView();
  }
  return {__type__: "update", visible: true};
}"""
"""Show the Cancel button, and scroll to the answer if it is below the first screen."""
BEGIN_RESTORED = f"""() => new URLSearchParams(location.search).has("text") || history.state?.text
  ? ({BEGIN})() : {{__type__: "update", visible: false}}"""
"""Do the same for a link or a refresh; the example of a new page is not scrolled to."""
END = """() => {
  document.querySelector("#answer").setAttribute("aria-busy", "false");
  return {__type__: "update", visible: false};
}"""
"""Hide the Cancel button."""
DOWNLOAD = """() => document.querySelector("#file").click()"""
"""Download the file that was written."""
