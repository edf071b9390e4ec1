/** Everything that the page looks like; no font, image or script from elsewhere. */
export const STYLE = `
:root {
  color-scheme: light dark;
  --paper: #fbfbf9; --card: #ffffff; --ink: #1d2327; --soft: #5c6770; --faint: #98a2aa; --line: #e3e6e8; --grid: #eef0f1;
  --accent: #0f6b7a; --area: #0f6b7a22; --held: #1a7f4b; --held-soft: #e4f4ea; --broken: #c0342b; --broken-soft: #fbe9e7;
  --process: #c46a12; --network: #7a4fc4; --broker: #c0342b; --client: #1f8a8a; --message: #2f6fc9; --down: #b9c0c5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121619; --card: #1a2024; --ink: #e6eaec; --soft: #a3aeb5; --faint: #6d7880; --line: #2b343a; --grid: #232b30;
    --accent: #53c0d1; --area: #53c0d126; --held: #5fcf92; --held-soft: #17352a; --broken: #ff8177; --broken-soft: #3d201f;
    --process: #eda04e; --network: #b394f0; --broker: #ff8177; --client: #5ccfcf; --message: #7fb0f5; --down: #4a555c;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 26px; letter-spacing: -0.01em; margin: 0 0 4px; }
h2 { font-size: 20px; letter-spacing: -0.01em; margin: 0; }
h3 { font-size: 13px; text-transform: uppercase; letter-spacing: 0.06em; color: var(--soft); margin: 32px 0 8px; font-weight: 600; }
p { margin: 4px 0; color: var(--soft); }
section { margin-top: 44px; padding-top: 28px; border-top: 1px solid var(--line); }
.head { display: flex; align-items: center; gap: 14px; flex-wrap: wrap; }
.badge { font-size: 12px; font-weight: 700; letter-spacing: 0.08em; padding: 3px 10px; border-radius: 99px; }
.badge.held { color: var(--held); background: var(--held-soft); }
.badge.broken { color: var(--broken); background: var(--broken-soft); }
.tiles { display: grid; grid-template-columns: repeat(5, 1fr); gap: 10px; margin-top: 18px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 12px; }
.tile b { display: block; font-size: 22px; font-weight: 650; letter-spacing: -0.02em; line-height: 1.2; }
.tile span { font-size: 12px; color: var(--soft); }
.tile.bad { border-color: var(--broken); background: var(--broken-soft); }
.tile.bad b { color: var(--broken); }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 14px 8px; overflow-x: auto; }
figcaption { font-size: 12.5px; color: var(--soft); margin-top: 6px; }
svg { display: block; width: 100%; min-width: 720px; height: auto; }
svg text { fill: var(--soft); font-size: 11px; font-family: inherit; }
svg .axis { stroke: var(--line); } svg .grid { stroke: var(--grid); }
svg .name { fill: var(--ink); font-size: 11.5px; }
svg .title { fill: var(--ink); font-size: 12px; font-weight: 600; }
.key { display: inline-flex; align-items: center; gap: 5px; margin-right: 14px; white-space: nowrap; }
.key i { width: 10px; height: 10px; border-radius: 2px; display: inline-block; }
table { width: 100%; border-collapse: collapse; font-size: 13px; background: var(--card); }
th { text-align: left; color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--line); padding: 6px 10px; }
td { border-bottom: 1px solid var(--grid); padding: 5px 10px; vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 10px; margin-top: 8px; }
summary { cursor: pointer; padding: 10px 14px; }
details > div { padding: 0 14px 12px; overflow-x: auto; }
.finding { border-left: 3px solid var(--broken); }
.finding summary b { color: var(--broken); margin-right: 8px; }
.story { list-style: none; margin: 0; padding: 0; font-size: 13px; }
.story li { display: grid; grid-template-columns: 92px 1fr; gap: 12px; padding: 2px 0; }
.story time { color: var(--faint); text-align: right; }
.story .fault { color: var(--broken); font-weight: 600; }
code { font: 12.5px ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.good { color: var(--held); }
@media (max-width: 640px) { .tiles { grid-template-columns: repeat(2, 1fr); } }
@media print { body { background: #fff; } details { break-inside: avoid; } }
`;
