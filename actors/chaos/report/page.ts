import { FAULTS } from "../faults.ts";
import type { Finding, ScenarioResult } from "../result.ts";
import { recoveryChart } from "./recovery-chart.ts";
import { streamsChart } from "./streams-chart.ts";
import { STYLE } from "./style.ts";
import { duration, escaped, grouped } from "./svg.ts";
import { timelineChart } from "./timeline-chart.ts";

const MAX_FINDINGS = 100;
const GROUPS = {
  process: "processes",
  network: "network",
  broker: "nats-server",
  client: "clients",
  message: "messages",
} as const;

/** One page about a run, complete in itself. */
export function reportPage(results: readonly ScenarioResult[]): string {
  const held = results.every((result) => result.held);
  const [first] = results;
  const total = (count: (result: ScenarioResult) => number) =>
    grouped(results.reduce((sum, one) => sum + count(one), 0));
  const title = results.length === 1 && first !== undefined ? first.scenario : `${results.length} scenarios`;
  const lead = `${total(({ requests }) => requests)} requests and ${total(({ faults }) => faults)} faults, ${first?.startedAt.slice(0, 16).replace("T", " ") ?? ""} UTC.`;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rally chaos: ${escaped(title)} ${held ? "held" : "broken"}</title><style>${STYLE}</style></head>
<body><main>
<div class="head"><h1>Rally chaos</h1>${badge(held)}</div>
<p>${escaped(lead)} Every token of every stream was compared with the run without faults.</p>
${results.map(section).join("\n")}
</main></body></html>
`;
}

function section(result: ScenarioResult): string {
  const { scenario, description, seed, topology, held, findings, injected } = result;
  const shownFindings = findings.slice(0, MAX_FINDINGS);
  const rest = findings.length - shownFindings.length;
  return `<section>
<div class="head"><h2>${escaped(scenario)}</h2>${badge(held)}</div>
<p>${escaped(description)}</p>
<p><code>rally chaos ${escaped(scenario)} --seed ${seed}</code> · ${escaped(topology)}</p>
${tiles(result)}
${findings.length === 0 ? "" : `<h3>Broken promises, and what led to them</h3>${shownFindings.map(findingCard).join("")}${rest > 0 ? `<p>… and ${rest} more in the JSON report.</p>` : ""}`}
<h3>Over time</h3>
<figure>${timelineChart(result)}<figcaption>${groupKeys()}<span class="key"><i style="background:var(--down)"></i>down</span></figcaption></figure>
${injected.length === 0 ? "" : `<h3>Recovery</h3><figure>${recoveryChart(result)}</figure>`}
<h3>Streams</h3><figure>${streamsChart(result)}</figure>
${figuresTable(result)}
${faultTable(result)}
</section>`;
}

function badge(held: boolean): string {
  return `<span class="badge ${held ? "held" : "broken"}">${held ? "EVERY PROMISE HELD" : "PROMISE BROKEN"}</span>`;
}

function tiles(result: ScenarioResult): string {
  const tile = (name: string, value: string, isBad = false) =>
    `<div class="tile${isBad ? " bad" : ""}"><b>${value}</b><span>${name}</span></div>`;
  const flaw = (name: string, count: number) => tile(name, grouped(count), count > 0);
  return `<div class="tiles">
${tile("requests", grouped(result.requests))}${tile("faults", grouped(result.faults))}
${flaw("differing", result.differing)}${flaw("lost", result.lost)}${flaw("duplicated", result.duplicated)}
${flaw("unended", result.unended)}${flaw("failed", result.failed)}${flaw("leaked", result.leaked)}
${tile("throughput ratio", result.throughputRatio.toFixed(2))}
${tile("per capacity alive", result.normalisedThroughputRatio.toFixed(2))}
</div>`;
}

function findingCard({ flaw, requestId, text, led }: Finding): string {
  const story = led
    .map(({ atMs, text: line }) => {
      const isFault = line.startsWith("fault:");
      return `<li><time>${(atMs / 1000).toFixed(3)} s</time><span${isFault ? ' class="fault"' : ""}>${escaped(line)}</span></li>`;
    })
    .join("");
  const who = requestId === undefined ? "" : `<code>${escaped(requestId)}</code> `;
  return `<details class="finding"${story === "" ? "" : " open"}><summary><b>${flaw}</b>${who}${escaped(text)}</summary>${story === "" ? "" : `<div><ul class="story">${story}</ul></div>`}</details>`;
}

function groupKeys(): string {
  return Object.entries(GROUPS)
    .map(([group, name]) => `<span class="key"><i style="background:var(--${group})"></i>${name}</span>`)
    .join("");
}

function figuresTable({ reference, chaos, capacityAlive, stalledMs }: ScenarioResult): string {
  const row = (name: string, figure: (pass: ScenarioResult["chaos"]) => string) =>
    `<tr><td>${name}</td><td class="n">${figure(reference)}</td><td class="n">${figure(chaos)}</td></tr>`;
  const stalled =
    stalledMs === 0 ? "" : ` This machine itself stood still for ${duration(stalledMs)}, which are in no gap.`;
  return `<h3>Figures</h3><table><tr><th></th><th class="n">without faults</th><th class="n">with</th></tr>
${row("requests", ({ requests }) => grouped(requests))}${row("tokens", ({ tokens }) => grouped(tokens))}
${row("tokens per second", ({ tokensPerSecond }) => grouped(tokensPerSecond))}
${row("time to first token, p50 / p99", ({ firstTokenMs }) => `${duration(firstTokenMs.p50)} / ${duration(firstTokenMs.p99)}`)}
${row("gap between tokens, p50 / p99 / max", ({ gapMs }) => `${duration(gapMs.p50)} / ${duration(gapMs.p99)} / ${duration(gapMs.max)}`)}
${row("activations sent again, or elsewhere", ({ extraWork }) => grouped(extraWork.resends))}
${row("sequences put out for want of KV room", ({ extraWork }) => grouped(extraWork.preemptions))}
${row(
  "refused, and sent again",
  ({ refusals }) =>
    Object.entries(refusals)
      .map(([code, count]) => `${escaped(code)} ${count}`)
      .join(", ") || "0",
)}
</table><p>${Math.round(capacityAlive * 1000) / 10} % of the worst-hit group of actors was alive.${stalled}</p>`;
}

function faultTable({ injected, recoveries, events }: ScenarioResult): string {
  if (injected.length === 0) return "";
  const felt = new Map(recoveries.map((recovery) => [recovery.faultId, recovery]));
  const rows = injected.map((fault) => {
    const recovery = felt.get(fault.id);
    const lasted = fault.healedMs === undefined ? "" : duration(fault.healedMs - fault.struckMs);
    const isFelt = recovery !== undefined && recovery.numLive > 0;
    return `<tr><td class="n">${fault.id}</td><td class="n">${(fault.struckMs / 1000).toFixed(2)} s</td><td><span class="key"><i style="background:var(--${FAULTS[fault.kind].group})"></i>${fault.kind}</span></td><td>${escaped(fault.target)}</td><td class="n">${lasted}</td><td class="n">${isFelt ? duration(recovery.longestGapMs) : "–"}</td><td class="n">${isFelt ? duration(recovery.allMovedMs) : "–"}</td><td>${escaped(fault.skipped === undefined ? (fault.note ?? "") : `skipped: ${fault.skipped}`)}</td></tr>`;
  });
  const log = events
    .filter(({ atMs }) => atMs >= 0)
    .map(
      ({ atMs, source, text }) =>
        `<li><time>${(atMs / 1000).toFixed(3)} s</time><span>${escaped(source)}: ${escaped(text)}</span></li>`,
    );
  return `<details><summary>All ${injected.length} faults</summary><div><table><tr><th class="n">#</th><th class="n">at</th><th>fault</th><th>target</th><th class="n">lasted</th><th class="n">longest gap</th><th class="n">all moved after</th><th></th></tr>${rows.join("")}</table></div></details>
<details><summary>What the deployment said</summary><div><ul class="story">${log.join("")}</ul></div></details>`;
}
