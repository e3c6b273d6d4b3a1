"""How the report looks: on screens light and dark, and on paper."""

STYLE = """
:root { --ink: #1b1b1b; --paper: #ffffff; --line: #c8c8c8; --quiet: #5a5a5a; --link: #00539c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #17191c; --line: #4a4d52; --quiet: #a8abb0; --link: #7cc0ff; }
}
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
p, dd, figcaption { max-width: 46rem; overflow-wrap: anywhere; }
.about, caption { color: var(--quiet); }
a { color: var(--link); }
a:focus-visible, .wide:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .35rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { border-bottom: 2px solid var(--ink); }
tbody th { font-weight: 600; }
.verdict { font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1rem; margin: .6rem 0; }
dt { color: var(--quiet); }
dd { margin: 0; }
figure { margin: 1.6rem 0 2.4rem; }
figure img { max-width: 100%; height: auto; background: #ffffff; padding: .5rem; box-sizing: border-box;
  border: 1px solid var(--line); }
figcaption { font-size: .9rem; margin-top: .5rem; }
@media (max-width: 36rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
@media print {
  :root { --ink: #000000; --paper: #ffffff; --line: #999999; --quiet: #333333; --link: #000000; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  figure, tr, dl { break-inside: avoid; }
  figure img { max-height: 230mm; border: 0; padding: 0; }
  h2, caption { break-after: avoid; }
  .wide { overflow: visible; }
  a { text-decoration: none; }
}
"""
