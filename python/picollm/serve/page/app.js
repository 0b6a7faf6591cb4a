// One page, four views. Text from a model or a file reaches the page through textContent only.
const $ = (id) => document.getElementById(id);
const make = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
};
const api = async (path, body) => {
  const how = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(path, how);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error?.message ?? answer.statusText);
  return value;
};
const short = (n) => n == null ? "–" : n >= 1e9 ? `${(n / 1e9).toPrecision(3)} B` : n >= 1e6 ? `${(n / 1e6).toPrecision(3)} M`
  : n >= 1e4 ? `${(n / 1e3).toPrecision(3)} K` : n.toLocaleString("en");
const lasting = (seconds) => seconds == null ? "unknown" : seconds < 120 ? `${Math.round(seconds)} s`
  : seconds < 7200 ? `${Math.round(seconds / 60)} min` : seconds < 172_800 ? `${(seconds / 3600).toFixed(1)} h`
    : `${Math.round(seconds / 86_400).toLocaleString("en")} days`;
const later = (wait, act) => { let timer; return () => { clearTimeout(timer); timer = setTimeout(act, wait); }; };

// ---- views
const tabs = [...document.querySelectorAll("[role=tab]")];
const entered = { training: () => listRuns(), plan: () => replan(), tokens: () => retokenize() };
function show(tab) {
  for (const one of tabs) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", chosen);
    one.tabIndex = chosen ? 0 : -1;
    $(one.getAttribute("aria-controls")).hidden = !chosen;
  }
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
  entered[tab.getAttribute("aria-controls")]?.();
}
for (const [index, tab] of tabs.entries()) {
  tab.onclick = () => show(tab);
  tab.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(index + step + tabs.length) % tabs.length];
    next.focus();
    show(next);
  };
}

// ---- server-sent events from a POST
async function* events(path, body, signal) {
  const answer = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
  if (!answer.ok) throw new Error((await answer.json()).error?.message ?? answer.statusText);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      if (part === "data: [DONE]") return;
      const said = JSON.parse(part.slice(6));
      if (said.error) throw new Error(said.error.message);
      yield said;
    }
  }
}

// ---- chat
let about = { chats: true, context: 0 };
let turns = [];
let running = null;
const compared = () => Boolean(about.beside) && $("both").checked;
const number = (id) => $(id).value === "" ? undefined : Number($(id).value);
const sampling = () => ({
  temperature: number("temperature"), top_k: number("top_k"), top_p: number("top_p"), min_p: number("min_p"),
  max_tokens: number("max_tokens"), seed: number("seed"), stream: true,
});

// An answer's words, its calls of the calculator and what they gave, in the order they came.
function heard(turn, type, text) {
  if (type === "text") turn.content += text;
  const last = turn.parts.at(-1);
  if (last?.type === type) last.text += text;
  else if (text) turn.parts.push({ type, text });
}
const called = (turn) => turn.parts?.some((part) => part.type !== "text");
function fill(place, turn) {
  if (!called(turn)) place.textContent = turn.content;
  else place.replaceChildren(...turn.parts.map(({ type, text }) =>
    type === "text" ? text : make("span", { className: `call ${type}`, textContent: type === "output" ? `= ${text}` : text })));
}
function draw() {
  $("turns").replaceChildren(...turns.map((turn, index) => {
    const text = make("div", { className: "text" });
    fill(text, turn);
    const tools = make("div", { className: "tools" });
    const copy = make("button", { type: "button", textContent: "Copy", onclick: () => navigator.clipboard.writeText(turn.content) });
    tools.append(copy);
    if (turn.role === "user") {
      tools.append(make("button", { type: "button", textContent: "Edit", onclick: () => edit(index) }));
    }
    const node = make("div", { className: `turn ${turn.role}${turn.error ? " error" : ""}` }, text, tools);
    if (turn.beside) {
      const other = make("div", { className: "beside" });
      fill(other, turn.beside);
      text.after(other);
    }
    node.dataset.role = turn.role;
    return node;
  }));
}
function edit(index) {
  running?.abort();
  $("message").value = turns[index].content;
  turns = turns.slice(0, index);
  draw();
  $("message").focus();
}
// What a model answers, or how it goes on where it is a base model.
function answers({ name, chats }, how, messages, signal) {
  const body = { ...how, model: name };
  return chats ? events("/v1/chat/completions", { ...body, messages }, signal)
    : events("/v1/completions", { ...body, prompt: messages.at(-1).content }, signal);
}
async function reply() {
  const messages = turns.map((turn) => ({ role: turn.role, content: called(turn) ? turn.parts : turn.content }));
  if ($("system").value.trim()) messages.unshift({ role: "system", content: $("system").value });
  const turn = { role: "assistant", content: "", parts: [] };
  turns.push(turn);
  draw();
  const place = $("turns").lastChild.querySelector(".text");
  running = new AbortController();
  $("stop").hidden = false;
  $("send").disabled = true;
  const started = performance.now();
  let first = null;
  let ended = null;
  let usage = null;
  try {
    const how = sampling();
    if (compared()) how.seed ??= Math.floor(Math.random() * 2 ** 31);
    for await (const chunk of answers(about, how, messages, running.signal)) {
      const { delta, text } = chunk.choices[0];
      const piece = delta?.content ?? text ?? "";
      heard(turn, "text", piece);
      for (const part of delta?.parts ?? []) heard(turn, part.type, part.text);
      if (turn.parts.length) first ??= performance.now();
      fill(place, turn);
      usage = chunk.usage ?? usage;
    }
    ended = performance.now();
    if (compared()) {
      turn.beside = { content: "", parts: [] };
      for await (const { choices: [{ delta, text }] } of answers(about.beside, how, messages, running.signal)) {
        heard(turn.beside, "text", delta?.content ?? text ?? "");
        for (const part of delta?.parts ?? []) heard(turn.beside, part.type, part.text);
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      turn.error = true;
      if (!turn.content) heard(turn, "text", error.message);
      if (error instanceof TypeError) meet();
    }
  } finally {
    running = null;
    $("stop").hidden = true;
    $("send").disabled = false;
    if (!turn.parts.length) turns = turns.filter((one) => one !== turn);
    draw();
  }
  if (usage) {
    const seconds = ((ended ?? performance.now()) - (first ?? started)) / 1000;
    const rate = usage.completion_tokens / Math.max(seconds, 1e-3);
    const wait = Math.round((first ?? started) - started);
    $("gauge").textContent = `context ${usage.total_tokens}/${about.context} · first token ${wait} ms · ${rate.toFixed(0)} tokens/s`
      + (usage.total_tokens >= about.context ? " · the context is full: New starts afresh" : "");
  }
}
$("ask").onsubmit = (event) => {
  event.preventDefault();
  const text = $("message").value;
  if (!text.trim() || running) return;
  $("message").value = "";
  turns.push({ role: "user", content: text });
  reply();
};
$("message").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
};
$("stop").onclick = () => running?.abort();
$("new").onclick = () => { running?.abort(); turns = []; $("gauge").textContent = ""; draw(); $("message").focus(); };
$("again").onclick = () => {
  if (running) return;
  while (turns.length && turns.at(-1).role !== "user") turns.pop();
  if (turns.length) reply();
};

// ---- tokens
async function retokenize() {
  const said = await api("/tokenize", { text: $("text").value });
  $("pieces").replaceChildren(...said.tokens.map((token) =>
    make("span", { className: "token", textContent: token.text, title: `id ${token.id} · bytes ${token.bytes.join(" ")}` })));
  const rate = said.count ? (said.bytes / said.count).toFixed(2) : "–";
  $("count").textContent = `${said.count} tokens · ${said.bytes} bytes · ${rate} bytes per token`;
}
let story = { prompt: "", tokens: [] };
async function continueText(prompt) {
  story = { prompt, tokens: [] };
  $("written").replaceChildren();
  $("odds").tBodies[0].replaceChildren();
  const body = { ...sampling(), max_tokens: Math.min(number("max_tokens") ?? 48, 48), prompt, logprobs: 10 };
  try {
    for await (const chunk of events("/v1/completions", body)) {
      const found = chunk.choices[0].logprobs;
      for (const token of found?.content ?? []) {
        const index = story.tokens.push(token) - 1;
        const button = make("button", { type: "button", className: "token", textContent: token.token });
        button.title = `${(100 * Math.exp(token.logprob)).toFixed(1)} %`;
        button.onmouseenter = button.onfocus = button.onclick = () => odds(index);
        $("written").append(button);
      }
    }
  } catch (error) {
    $("written").textContent = error.message;
  }
}
function odds(index) {
  const token = story.tokens[index];
  const rows = token.top_logprobs.map((other) => [other.token, Math.exp(other.logprob)]);
  const rest = Math.max(0, 1 - rows.reduce((sum, [, p]) => sum + p, 0));
  const line = (text, p, act) => make("tr", {},
    make("td", {}, act ? make("button", { type: "button", className: "token", textContent: text, onclick: act }) : text),
    make("td", {}, make("meter", { min: 0, max: 1, value: p })),
    make("td", { textContent: `${(100 * p).toFixed(2)} %` }));
  $("odds").tBodies[0].replaceChildren(
    ...rows.map(([text, p]) => line(text, p, () => branch(index, text))), line("all others", rest));
}
function branch(index, text) {
  const kept = story.tokens.slice(0, index).map((token) => token.token).join("");
  continueText(story.prompt + kept + text);
  $("text").value = story.prompt;
  retokenize();
}
$("text").oninput = later(150, retokenize);
$("continue").onclick = () => continueText($("text").value);

// ---- training
const logs = new Map(); // run → its lines
let streams = [];
async function listRuns() {
  const { runs } = await api("/api/runs");
  for (const [select, none] of [[$("run"), false], [$("beside"), true]]) {
    const before = select.value;
    const names = [...(none ? [""] : []), ...runs.map((run) => run.name)];
    select.replaceChildren(...names.map((name) => make("option", { value: name, textContent: name || "nothing" })));
    if (names.includes(before)) select.value = before;
  }
  follow();
}
function follow() {
  for (const stream of streams) stream.close();
  streams = [...new Set([$("run").value, $("beside").value])].filter(Boolean).map((run) => {
    logs.set(run, []);
    const stream = new EventSource(`/api/events?run=${encodeURIComponent(run)}`);
    stream.onmessage = (event) => {
      const { lines, next } = JSON.parse(event.data);
      if (lines) logs.get(run).splice(next - lines.length, Infinity, ...lines); // a server that is new tells all again
      plot();
    };
    stream.onerror = () => meet();
    return stream;
  });
  plot();
}
const points = (run, field) => (logs.get(run) ?? [])
  .filter((line) => Number.isFinite(line[field]) && line.kind === (field === "bpb" ? "eval" : "step"))
  .map((line) => [line.step, line[field]]);
function plot() {
  const field = $("shown").value;
  const named = [$("run").value, $("beside").value].filter(Boolean);
  const curves = named.map((run) => points(run, field));
  const all = curves.flat();
  const svg = $("curve");
  svg.replaceChildren();
  svg.dataset.points = curves[0]?.length ?? 0;
  const last = curves[0]?.at(-1);
  $("state").textContent = last ? `${named[0]}: step ${last[0].toLocaleString("en")}, ${field} ${last[1].toPrecision(5)}` : "no values yet";
  if (all.length < 2) return;
  const scale = $("log").checked ? Math.log10 : (value) => value;
  const xs = all.map(([x]) => x);
  const ys = all.map(([, y]) => scale(Math.max(y, 1e-12)));
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const at = ([x, y]) => [
    50 + 740 * (x - left) / (right - left || 1), 290 - 270 * (scale(Math.max(y, 1e-12)) - low) / (high - low || 1),
  ];
  const node = (tag, props, text = "") => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(props)) made.setAttribute(name, value);
    made.textContent = text;
    svg.append(made);
  };
  node("path", { class: "axis", d: "M50 20V290H790" });
  const real = (value) => $("log").checked ? 10 ** value : value;
  node("text", { x: 4, y: 26 }, real(high).toPrecision(4));
  node("text", { x: 4, y: 292 }, real(low).toPrecision(4));
  node("text", { x: 50, y: 310 }, `step ${left}`);
  node("text", { x: 790, y: 310, "text-anchor": "end" }, right.toLocaleString("en"));
  curves.forEach((curve, index) => {
    if (curve.length) node("path", { class: index ? "two" : "one", d: "M" + curve.map((p) => at(p).map((v) => v.toFixed(1)).join(" ")).join("L") });
  });
}
for (const id of ["run", "beside"]) $(id).onchange = follow;
for (const id of ["shown", "log"]) $(id).onchange = plot;
$("csv").onclick = () => {
  const field = $("shown").value;
  const text = `step,${field}\n` + points($("run").value, field).map((point) => point.join(",")).join("\n") + "\n";
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  make("a", { href: url, download: `${$("run").value}-${field}.csv` }).click();
  URL.revokeObjectURL(url);
};

// ---- plan: every number comes from the server
const KNOBS = [
  ["depth", "Depth", 4, 2, 32, 2], ["vocab-size", "Vocabulary", 4096, 512, 65536, 512],
  ["max-seq-len", "Row length", 1024, 64, 8192, 64], ["device-batch-size", "Rows at once", 8, 1, 128, 1],
  ["total-batch-size", "Tokens per step", 131072, 512, 4194304, 512], ["num-iterations", "Steps", 5000, 10, 50000, 10],
];
for (const [name, label, value, min, max, step] of KNOBS) {
  const range = make("input", { type: "range", min, max, step, value, ariaLabel: `${label}, slider` });
  const exact = make("input", { type: "number", min, max: max * 16, step: 1, value, id: `knob-${name}` });
  range.oninput = () => { exact.value = range.value; replanSoon(); };
  exact.oninput = () => { range.value = exact.value; replanSoon(); };
  const why = make("button", { type: "button", textContent: "?", ariaLabel: `Explain ${label}`, onclick: () => explain(name) });
  $("knobs").append(make("label", {}, make("span", {}, `${label} `, why), exact, range));
}
async function explain(name) {
  $("why").textContent = (await api(`/api/explain/${name}`)).text;
}
async function replan() {
  const words = KNOBS.flatMap(([name]) => [`--${name}`, $(`knob-${name}`).value]);
  let plan;
  try {
    plan = await api("/api/plan", { words });
  } catch (error) {
    $("numbers").replaceChildren(make("p", { className: "warning", textContent: error.message }));
    return;
  }
  const rows = [
    ["shape", `${plan.depth} layers × ${plan.width}, ${plan.heads} heads, ${plan.window_pattern}`],
    ["parameters", `${short(plan.params.total)}, ${(100 * plan.params.embedding_share).toFixed(0)} % in embeddings`],
    ["tokens per step", `${plan.device_batch} × ${plan.seq_len} × ${plan.ranks} × ${plan.micro_steps} = ${plan.tokens_per_step.toLocaleString("en")}`],
    ["tokens in all", `${plan.steps.toLocaleString("en")} steps = ${plan.tokens.toLocaleString("en")} (${short(plan.tokens)})`],
    ["work", `${plan.flops.toExponential(3)} FLOPs`],
    ["time here", lasting(plan.time.seconds)],
    ["memory", `${(plan.memory.total / 2 ** 30).toPrecision(3)} of ${(plan.memory.available / 2 ** 30).toPrecision(3)} GiB`],
  ];
  const list = make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
  const notes = [...plan.problems.map((one) => one.message), ...plan.warnings.map((one) => `${one.code} ${one.text ?? one.message ?? ""}`)]
    .map((text) => make("p", { className: "warning", textContent: text }));
  $("numbers").replaceChildren(make("div", { className: "card" }, list), ...notes);
  $("command").textContent = plan.command;
}
const replanSoon = later(200, replan);
$("copy").onclick = () => navigator.clipboard.writeText($("command").textContent);

// ---- start
// Who answers; asked again while nobody does, since a server that was stopped may come back.
let meeting = null;
const pause = (wait) => new Promise((done) => setTimeout(done, wait));
async function known() {
  for (;;) {
    try {
      about = await api("/api/about");
      break;
    } catch {
      $("about").textContent = "the server does not answer · trying again";
      await pause(1000);
    }
  }
  $("about").textContent = `${about.name} · ${about.stage}, step ${about.step.toLocaleString("en")} · ${short(about.params)} parameters · context ${about.context}`
    + (about.chats ? "" : " · a base model: it continues your text and does not answer");
  $("compare").hidden = !about.beside;
  $("other").textContent = about.beside?.name ?? "";
  if (streams.some((stream) => stream.readyState === EventSource.CLOSED)) follow();
  meeting = null;
}
function meet() {
  meeting ??= known();
  return meeting;
}
await meet();
show(tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash) ?? tabs[0]);
