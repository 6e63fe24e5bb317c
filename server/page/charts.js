// Live figures from /metrics: counters as rates, gauges as they are, each a small line over the last two minutes.
import {request} from "/page/api.js";
import {make} from "/page/tokens.js";

const EVERY_MS = 2000, POINTS = 60;
const SVG = "http://www.w3.org/2000/svg";

// sum: over all samples of the name whose labels hold the given ones; rate: per second.
const charts = [
  {title: "Tokens per second", unit: "", lines: [
    {label: "generated", name: "vllm:generation_tokens_total", rate: true},
    {label: "prompt", name: "vllm:prompt_tokens_total", rate: true}]},
  {title: "Requests", unit: "", lines: [
    {label: "running", name: "vllm:num_requests_running"},
    {label: "waiting", name: "vllm:num_requests_waiting"}]},
  {title: "KV cache", unit: " %", lines: [{label: "in use", name: "vllm:kv_cache_usage_perc", times: 100}]},
  {title: "Prefix cache", unit: " tokens/s", lines: [
    {label: "found", name: "vllm:prefix_cache_hits_total", rate: true},
    {label: "asked", name: "vllm:prefix_cache_queries_total", rate: true}]},
  {title: "Engram rows per second", unit: "", lines: [{label: "asked", name: "engramd_engram_rows_total", rate: true}]},
  {title: "Engram waits", unit: " ms/s", lines: [
    {label: "layers waited", name: "engramd_engram_wait_seconds_total", rate: true, times: 1000}]},
  {title: "Engram tables", unit: " MiB", lines: [
    {label: "in memory", name: "engramd_engram_resident_bytes", times: 1 / 1048576},
    {label: "in all", name: "engramd_engram_table_bytes", times: 1 / 1048576}]},
];

// name -> sum over its samples
export function parseMetrics(text) {
  const sums = new Map();
  for (const line of text.split("\n")) {
    const m = /^([A-Za-z_:][A-Za-z0-9_:]*)(\{.*\})? (\S+)/.exec(line);
    if (m) sums.set(m[1], (sums.get(m[1]) ?? 0) + Number(m[3]));
  }
  return sums;
}

function build(chart) {
  const figure = make("figure"), caption = make("figcaption"), svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.ariaHidden = "true";
  caption.append(make("span", "", chart.title));
  for (const [i, line] of chart.lines.entries()) {
    line.points = [];
    line.shown = make("b", "line-" + i, "\u2013");
    caption.append(line.shown);
    line.path = document.createElementNS(SVG, "path");
    line.path.setAttribute("class", "line-" + i);
    svg.append(line.path);
  }
  figure.append(caption, svg);
  return figure;
}

function push(line, sums, seconds) {
  const value = sums.get(line.name);
  let point = value;
  if (line.rate)
    point = line.last === undefined || seconds === 0 || value < line.last ? undefined : (value - line.last) / seconds;
  line.last = value;
  if (point !== undefined) line.points.push(point * (line.times ?? 1));
  if (line.points.length > POINTS) line.points.shift();
}

const brief = new Intl.NumberFormat("en", {maximumSignificantDigits: 3, notation: "compact"});

function draw(chart) {
  const top = Math.max(1e-9, ...chart.lines.flatMap((l) => l.points));
  for (const line of chart.lines) {
    const from = POINTS - line.points.length;
    line.path.setAttribute("d", line.points.map((p, i) =>
      `${i ? "L" : "M"}${from + i} ${(19 - 18 * p / top).toFixed(2)}`).join(""));
    const last = line.points.at(-1);
    line.shown.textContent = last === undefined ? "" : `${line.label} ${brief.format(last)}${chart.unit}`;
  }
}

let before = 0;

async function refresh(note) {
  try {
    const sums = parseMetrics(await (await request("/metrics")).text());
    const now = performance.now(), seconds = before ? (now - before) / 1000 : 0;
    before = now;
    for (const chart of charts) {
      chart.lines.forEach((line) => push(line, sums, seconds));
      draw(chart);
    }
    note.textContent = "Figures of the last two minutes.";
  } catch (error) {
    note.textContent = error.status === 401 ? "Live figures need the API key." : "No figures: " + error.message;
  }
}

export function start(place, note) {
  place.append(...charts.map(build));
  const again = async () => {
    if (!document.hidden) await refresh(note);
    setTimeout(again, EVERY_MS);
  };
  again();
}
