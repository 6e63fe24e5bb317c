// The playground: what to send, one answer at a time, what comes back.
import {request, setKey, stream} from "/page/api.js";
import {start as startCharts} from "/page/charts.js";
import * as tokens from "/page/tokens.js";

const TOP_LOGPROBS = 5, READY_EVERY_MS = 3000;
const $ = (id) => document.getElementById(id);
let model = null, running = null, hasEngram = true;
let turns = []; // of the chat so far: {role, content}

// --- the server ----------------------------------------------------------------------------------------------------

async function lookAtServer() {
  let word = "unreachable";
  try {
    const answer = await fetch("/ready", {cache: "no-store", credentials: "omit"}), state = await answer.json();
    word = state.status + (state.status === "loading" ? ` ${Math.round(100 * state.progress)} %` : "");
    if (answer.ok && !model) await lookAtModel();
  } catch { /* said by the badge */ }
  $("ready").textContent = word;
  $("ready").className = "badge " + (word === "ready" ? "good" : "bad");
  setTimeout(lookAtServer, READY_EVERY_MS);
}

async function lookAtModel() {
  try {
    model = (await (await request("/v1/models")).json()).data[0];
    $("model").textContent = `${model.id}, up to ${model.max_model_len} tokens`;
  } catch (error) {
    $("model").textContent = error.status === 401 ? "this server wants an API key" : "";
  }
}

// --- requests ------------------------------------------------------------------------------------------------------

const mode = () => document.querySelector("input[name=mode]:checked").value;

function sampling() {
  const body = {
    max_tokens: $("max-tokens").valueAsNumber, temperature: $("temperature").valueAsNumber, top_p: $("top-p").valueAsNumber,
    stream: true,
  };
  if (!Number.isNaN($("seed").valueAsNumber)) body.seed = $("seed").valueAsNumber;
  if ($("ignore-eos").checked) body.ignore_eos = true;
  if (hasEngram) body.engram = true;
  return body;
}

function textRequest() {
  return {...sampling(), prompt: $("prompt").value, logprobs: TOP_LOGPROBS, echo: $("echo").checked};
}

function chatRequest() {
  const system = $("system").value ? [{role: "system", content: $("system").value}] : [];
  return {...sampling(), messages: [...system, ...turns], logprobs: true, top_logprobs: TOP_LOGPROBS};
}

// --- answers -------------------------------------------------------------------------------------------------------

// One entry for each token of a chunk: {name, logprob, top}.
function textTokens(choice) {
  const l = choice.logprobs;
  return !l ? [] : l.tokens.map((name, i) => ({
    name, logprob: l.token_logprobs[i], top: Object.entries(l.top_logprobs?.[i] ?? {}).sort((a, b) => b[1] - a[1]),
  }));
}

function chatTokens(choice) {
  return (choice.logprobs?.content ?? []).map((t) => ({
    name: t.token, logprob: t.logprob, top: t.top_logprobs.map((o) => [o.token, o.logprob]),
  }));
}

// Which part of a chunk's text is whose. A token that is not in the text (a BOS, a part of a character) has none; what
// lies between the places of two others belongs to the one before.
function spread(names, text) {
  const texts = names.map(() => "");
  let at = 0;
  names.forEach((name, i) => {
    const found = name && !name.includes("\ufffd") ? text.indexOf(name, at) : -1;
    if (found < 0 || (i === 0 && found > 0) || found > at + 8) return;
    if (found > at) texts[i - 1] += text.slice(at, found);
    texts[i] = name;
    at = found + name.length;
  });
  if (texts.length) texts[texts.length - 1] += text.slice(at);
  return texts;
}

const memoryOf = (engram, i) => !engram || engram.gate[i] === null || engram.gate[i] === undefined ? null :
  {gate: engram.gate[i], share: engram.share[i], tier: engram.tier[i], ngrams: engram.ngrams[i]};

function show(choice, list, text, kindOf) {
  if (choice.engram) tokens.describeModel(choice.engram.layers, choice.engram.orders);
  const texts = spread(list.map((t) => t.name), text);
  list.forEach((t, i) => tokens.add({...t, text: texts[i], kind: kindOf(i), memory: memoryOf(choice.engram, i)}));
}

// The prompt's tokens come first, in chunks of their own; what they spell is the prompt, or its beginning.
function textReader(prompt) {
  let left = prompt.length;
  return (chunk) => {
    const choice = chunk.choices[0];
    if (!choice) return;
    const list = textTokens(choice);
    show(choice, list, choice.text, () => left > 0 ? "prompt" : "");
    left -= choice.text.length;
  };
}

function chatReader(chunk) {
  const choice = chunk.choices[0];
  if (!choice) return;
  const {reasoning_content: thought, content} = choice.delta;
  show(choice, chatTokens(choice), (thought ?? "") + (content ?? ""), () => thought ? "thought" : "");
}

function setRunning(controller) {
  running = controller;
  $("run").disabled = Boolean(controller);
  $("stop").disabled = !controller;
  $("answer").ariaBusy = String(Boolean(controller));
}

function fail(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
  $("status").textContent = "failed";
}

async function send(path, body, reader) {
  const controller = new AbortController(), begin = performance.now();
  let n = 0;
  setRunning(controller);
  $("status").textContent = "waiting";
  try {
    await stream(path, body, controller.signal, (chunk) => {
      reader(chunk);
      $("status").textContent = `${++n} pieces`;
    });
    $("status").textContent = `done in ${((performance.now() - begin) / 1000).toFixed(1)} s`;
  } catch (error) {
    if (error.name === "AbortError") $("status").textContent = "stopped";
    else if (hasEngram && error.status === 400 && /engram/i.test(error.message)) {
      hasEngram = false; // a model without tables: the rest of the page is as good
      delete body.engram;
      await send(path, body, reader);
    } else fail(error);
  }
  setRunning(null);
}

// --- the chat ------------------------------------------------------------------------------------------------------

function showTurns() {
  $("dialog").replaceChildren(...turns.map((turn) => {
    const e = tokens.make("div", "turn");
    e.append(tokens.make("b", "", turn.role), turn.content);
    return e;
  }));
}

async function sendChat() {
  turns.push({role: "user", content: $("prompt").value});
  $("prompt").value = "";
  showTurns();
  await send("/v1/chat/completions", chatRequest(), chatReader);
  const answer = tokens.text("");
  if (answer) turns.push({role: "assistant", content: answer});
}

function newChat() {
  turns = [];
  showTurns();
  tokens.clear();
  $("error").hidden = true;
  $("status").textContent = "";
}

function changeMode() {
  const chat = mode() === "chat";
  $("system-row").hidden = !chat;
  $("clear").hidden = !chat;
  $("echo").parentElement.hidden = chat;
  $("prompt-label").textContent = chat ? "Message" : "Prompt";
  newChat();
}

// --- start ---------------------------------------------------------------------------------------------------------

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return;
  $("error").hidden = true;
  tokens.clear();
  if (mode() === "chat") sendChat();
  else send("/v1/completions", textRequest(), textReader($("echo").checked ? $("prompt").value : ""));
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", newChat);
$("key-form").addEventListener("submit", (event) => event.preventDefault());
$("key").addEventListener("input", () => {
  setKey($("key").value);
  model = null;
});
for (const radio of document.querySelectorAll("input[name=mode]")) radio.addEventListener("change", changeMode);
changeMode();
lookAtServer();
startCharts($("charts"), $("live-note"));
