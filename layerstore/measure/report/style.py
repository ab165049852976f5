"""Colours and type of reports: one style sheet for the page and for pictures on their own.

Colours of schemes are those of Okabe and Ito, which people tell apart whatever their eyes
("Color Universal Design", 2008), a little darker on white, a little lighter on black, so that
each has a contrast of 3 to 1 to what lies behind it (WCAG 2.1, 1.4.11). Text is always ink.
"""

from __future__ import annotations

_LIGHT = """
--paper:#ffffff;--raised:#f5f6f8;--ink:#1a1d21;--soft:#5b626c;--grid:#e3e6ea;--axis:#9aa1ab;
--full_copies:#6f7782;--plain_layers:#c45500;--compressed_layers:#a87400;--whole_files:#b05a8c;
--fixed_blocks:#3185bd;--chunks:#0060a0;--stored:#00865f;--optimized:#005c42;--heat:#00508a;--on:#ffffff;
--t0:#0072b2;--t1:#009e73;--t2:#e69f00;--t3:#cc79a7;--t4:#d55e00;--t5:#56b4e9;--t6:#7d8590;
"""

_DARK = """
--paper:#14171b;--raised:#1d2126;--ink:#e8eaed;--soft:#a4abb5;--grid:#2b3037;--axis:#69717c;
--full_copies:#9aa2ad;--plain_layers:#ee7d30;--compressed_layers:#e0a52c;--whole_files:#d98bb9;
--fixed_blocks:#6cc0f0;--chunks:#3d9bdc;--stored:#1fbf8f;--optimized:#7adcbc;--heat:#1b6fae;--on:#ffffff;
--t0:#3d9bdc;--t1:#1fbf8f;--t2:#e0a52c;--t3:#d98bb9;--t4:#ee7d30;--t5:#6cc0f0;--t6:#8d95a0;
"""

_KEYS = (
    "full_copies", "plain_layers", "compressed_layers", "whole_files", "fixed_blocks", "chunks",
    "stored", "optimized", "heat", "t0", "t1", "t2", "t3", "t4", "t5", "t6",
)  # fmt: skip

_PICTURE = """
.picture{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
font-variant-numeric:tabular-nums}
.paper{fill:var(--paper)}
text.ink{fill:var(--ink)}text.soft{fill:var(--soft)}text.strong{fill:var(--ink);font-weight:600}
text.on{fill:var(--on)}
line.grid{stroke:var(--grid)}line.axis{stroke:var(--axis)}
.gap{stroke:var(--paper);stroke-width:1.5}.empty{fill:var(--raised)}
polyline{stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
polyline.thick{stroke-width:3}polyline.lead{stroke-width:1}
""" + "".join(
    f".f-{key}{{fill:var(--{key})}}.l-{key}{{stroke:var(--{key})}}" for key in _KEYS
)  # fmt: skip

_PAGE = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;color-scheme:light dark}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main,header,footer{max-width:1040px;margin:0 auto;padding:0 20px}
header{padding-top:36px}
h1{font-size:28px;line-height:1.25;margin:0 0 8px;font-weight:650;text-wrap:balance}
h2{font-size:20px;line-height:1.3;margin:56px 0 4px;font-weight:650}
h3{font-size:15px;margin:24px 0 4px;font-weight:600}
p{margin:6px 0;max-width:72ch}
.note,footer{color:var(--soft);font-size:14px}
b.ours{color:var(--stored)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:12px;
margin:24px 0 0;padding:0;list-style:none}
.tiles li{background:var(--raised);border-radius:10px;padding:14px 16px}
.tiles b{display:block;font-size:24px;line-height:1.2;font-weight:650;
font-variant-numeric:tabular-nums}
.tiles span{color:var(--soft);font-size:13.5px;line-height:1.35;display:block;margin-top:4px}
figure{margin:16px 0 0}
figure svg{display:block;width:100%;height:auto}
.narrow{display:none!important}
.scroll{overflow-x:auto;margin:12px 0;max-width:100%}
table{border-collapse:collapse;font-size:14px;line-height:1.4;min-width:60%;
font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);font-size:13.5px;padding-bottom:6px}
th,td{padding:5px 18px 5px 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--grid)}
th:last-child,td:last-child{padding-right:4px}
th{font-weight:600;white-space:nowrap}
td.n,th.n{text-align:right;white-space:nowrap}
th.name{font-weight:400;white-space:normal;min-width:16ch;max-width:44ch;
overflow-wrap:anywhere}
tr.ours td,tr.ours th,tfoot td,tfoot th{font-weight:600}
i.key{display:inline-block;width:11px;height:11px;border-radius:3px;margin-right:8px;
vertical-align:-1px}
details{margin-top:12px}
summary{cursor:pointer;font-size:14px;color:var(--soft);padding:4px 0;width:max-content;
max-width:100%}
summary:hover,summary:focus-visible{color:var(--ink)}
code{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.92em}
footer{margin-top:64px;padding-bottom:40px;overflow-wrap:anywhere}
footer ul{padding-left:20px;margin:8px 0}
@media (max-width:719px){main,header,footer{padding:0 16px}header{padding-top:24px}
h1{font-size:22px}h2{font-size:18px;margin-top:44px}
.wide{display:none!important}.narrow{display:block!important;max-width:520px}
.tiles{grid-template-columns:1fr 1fr}.tiles b{font-size:20px}}
@media print{body{font-size:11pt}main,header,footer{max-width:none;padding:0}
.wide{display:block!important}.narrow{display:none!important}
figure,tr,.tiles li{break-inside:avoid}h2,h3{break-after:avoid}
.scroll{overflow:visible}}
"""


def _scheme(colours: str) -> str:
    return ":root{" + colours.replace("\n", "") + "}"


def _joined(css: str) -> str:
    return css.strip().replace("\n", "")


def picture_style() -> str:
    """Return the style sheet of a picture on its own, light or dark as its reader likes it."""
    dark = f"@media (prefers-color-scheme:dark){{{_scheme(_DARK)}}}"
    return _scheme(_LIGHT) + dark + _joined(_PICTURE)


def page_style() -> str:
    """Return the style sheet of a page with pictures: dark on screens only."""
    dark = f"@media screen and (prefers-color-scheme:dark){{{_scheme(_DARK)}}}"
    return _scheme(_LIGHT) + dark + _joined(_PICTURE) + _joined(_PAGE)
