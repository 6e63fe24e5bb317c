// Tokens as they come: their text with a heat strip, a line per Engram layer, and the panel about the chosen one.

// {name, text, kind: "" | "prompt" | "thought", logprob, top: [[name, logprob]],
//  memory: {gate, share, tier, ngrams} | null}
let tokens = [];
let layers = [], orders = [];
let chosen = -1;

const answer = document.getElementById("answer");
const legend = document.getElementById("legend");
const panel = document.getElementById("token-body");

export function make(tag, className = "", text = "") {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text) e.textContent = text;
  return e;
}

export function clear() {
  tokens = [];
  layers = orders = [];
  chosen = -1;
  answer.replaceChildren();
  legend.hidden = true;
  panel.replaceChildren(make("p", "quiet", "None chosen."));
}

export function text(kind) {
  return tokens.filter((t) => t.kind === kind).map((t) => t.text).join("");
}

export function describeModel(modelLayers, modelOrders) {
  if (layers.length || !modelLayers.length) return;
  layers = modelLayers;
  orders = modelOrders;
  legend.hidden = false;
  legend.textContent = "Below each token, a line for each Engram layer (" + layers.join(", ") +
      "): the stronger, the wider its gate was open to what the table said.";
}

const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;

function heatStrip(memory) {
  const strip = make("span", "heat");
  strip.ariaHidden = "true";
  for (const gate of memory.gate) {
    const line = make("i");
    line.style.opacity = String(mean(gate));
    strip.append(line);
  }
  return strip;
}

function label(t) {
  const parts = [JSON.stringify(t.text || t.name)];
  if (t.logprob !== null) parts.push(percent(Math.exp(t.logprob)));
  if (t.memory) parts.push("gates " + t.memory.gate.map((g) => mean(g).toFixed(2)).join(", "));
  return parts.join(", ");
}

export function add(t) {
  const at = tokens.length;
  tokens.push(t);
  const span = make("span", "token " + t.kind);
  span.setAttribute("role", "option");
  span.id = "t" + at;
  span.tabIndex = at === 0 ? 0 : -1;
  span.ariaSelected = "false";
  span.ariaLabel = label(t);
  const shown = t.text.replace(/\n/g, "");
  span.append(make("span", "text", shown));
  if (t.text.includes("\n")) span.classList.add("break");
  if (t.memory) span.append(heatStrip(t.memory));
  answer.append(span);
  if (t.text.endsWith("\n")) answer.append(make("span", "linebreak"));
}

// --- the chosen one ------------------------------------------------------------------------------------------------

const percent = (p) => (p >= 0.1 ? (100 * p).toFixed(1) : (100 * p).toPrecision(2)) + " %";

function bar(fraction, className = "") {
  const b = make("span", "bar " + className), fill = make("i");
  b.ariaHidden = "true";
  fill.style.width = 100 * Math.min(1, Math.max(0, fraction)) + "%";
  b.append(fill);
  return b;
}

function row(name, fraction, shown, className = "") {
  const tr = make("tr"), head = make("th"), value = make("td"), number = make("td", "number", shown);
  head.scope = "row";
  head.append(name);
  value.append(bar(fraction, className));
  tr.append(head, value, number);
  return tr;
}

function table(caption, rows) {
  const t = make("table"), c = make("caption", "", caption), body = make("tbody");
  body.append(...rows);
  t.append(c, body);
  return t;
}

function probabilities(t) {
  if (t.logprob === null) return [];
  return [table("Probability", t.top.map(([name, logprob]) => {
    const tr = row(make("code", "", JSON.stringify(name)), Math.exp(logprob), percent(Math.exp(logprob)));
    if (name === t.name) tr.className = "chosen";
    return tr;
  }))];
}

function gates(memory) {
  return memory.gate.map((streams, l) => table(`Gates of layer ${layers[l]} (rows from ${memory.tier[l]})`,
    streams.map((g, s) => row(`stream ${s}`, g, g.toFixed(3), "heat"))));
}

function shares(memory) {
  return memory.share.map((parts, l) => table(`What its value is made of, layer ${layers[l]}`,
    parts.map((p, o) => row(ngram(memory.ngrams[o], orders[o]), p, percent(p)))));
}

function ngram(words, order) {
  const name = make("span", "", `${order} tokens `);
  name.append(make("code", "", words.map((w) => w === null ? "\u00b7" : JSON.stringify(w)).join(" ")));
  return name;
}

export function choose(at, focus) {
  if (at < 0 || at >= tokens.length) return;
  const before = document.getElementById("t" + chosen), now = document.getElementById("t" + at);
  if (before) {
    before.ariaSelected = "false";
    before.tabIndex = -1;
  }
  document.getElementById("t0").tabIndex = -1;
  now.ariaSelected = "true";
  now.tabIndex = 0;
  if (focus) now.focus();
  chosen = at;
  const t = tokens[at], head = make("p");
  head.append(make("code", "", JSON.stringify(t.text || t.name)));
  if (t.logprob !== null) head.append(` had a probability of ${percent(Math.exp(t.logprob))}.`);
  const memory = t.memory ? [...gates(t.memory), ...shares(t.memory)] : [];
  panel.replaceChildren(head, ...probabilities(t), ...memory);
}

const steps = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -Infinity, End: Infinity};

answer.addEventListener("keydown", (event) => {
  const step = steps[event.key];
  if (step === undefined) return;
  event.preventDefault();
  choose(Math.min(tokens.length - 1, Math.max(0, chosen + step)), true);
});
for (const kind of ["mouseover", "focusin", "click"])
  answer.addEventListener(kind, (event) => {
    const span = event.target.closest(".token");
    const at = span ? Number(span.id.slice(1)) : -1;
    if (at >= 0 && at !== chosen) choose(at, false);
  });
