
"use strict";
// The studio's page. One file, no library, nothing from the network but the studio itself. Whatever comes from recordings or
// people is put on the page as text (textContent), never as markup.
(() => {
const $ = (id) => document.getElementById(id);
const SIDES = ["left", "right"];
const LETTER = {left: "A", right: "B"};
const clamp = (x, a, b) => Math.min(b, Math.max(a, x));

function el(tag, props = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [k, v] of Object.entries(props)) {
    if (k === "class") made.className = v;
    else if (k === "text") made.textContent = v;
    else if (k.startsWith("on")) made.addEventListener(k.slice(2), v);
    else if (k in made && typeof v !== "string") made[k] = v;
    else made.setAttribute(k, v);
  }
  made.append(...inside);
  return made;
}

// --- words ---------------------------------------------------------------------------------------------------
const NAMES = [
  [/bvp|ppg|pulse/, "Pulse wave"], [/ecg/, "Electrocardiogram"], [/resp|rsp|breath/, "Breathing"],
  [/eda|gsr|scl/, "Skin conductance"], [/temp|skt/, "Skin temperature"], [/gyro/, "Turning"], [/acc/, "Movement"],
  [/voice|speech|audio|sound/, "Voice"], [/gaze/, "Gaze"], [/head|pose/, "Head"], [/face|(^|_)au/, "Face"],
  [/transcript|text|said/, "What is said"], [/call/, "Calls"], [/message|sms/, "Messages"], [/activit/, "Activity"],
  [/step/, "Steps"], [/^hr$|heart/, "Heart rate"], [/video|camera/, "Video"],
];
const UNITS = {uS: "µS", nS: "nS", degC: "°C", au: "a.u.", bpm: "beats/min", intensity: "0–5", "full scale": ""};
const AUS = {1: "inner brow up", 2: "outer brow up", 4: "brow down", 5: "lid up", 6: "cheek up", 7: "lid tight", 9: "nose wrinkle",
  10: "lip up", 12: "smile", 14: "dimple", 15: "corner down", 17: "chin up", 20: "lip stretch", 23: "lip tight", 25: "lips part",
  26: "jaw drop", 45: "blink"};
const ASPECTS = {realism: "Could be a person", label_fit: "Fits the situation", physiology: "Body signals are plausible",
  cross_modal: "Streams fit together"};
const HINTS = {
  look: "Drag to move along, pinch or Ctrl + wheel to zoom. Both sides always show the same stretch on the same scale.",
  mark: "Drag over the stretch of a stream that is wrong. Everything you mark is listed below.",
  correct: "Drag a heartbeat (▾) or the peak of a skin response (●) to where it should be. The curve follows.",
};
const human = (name) => (NAMES.find(([p]) => p.test(name.toLowerCase())) || [0, name])[1];
const unit = (u) => (u in UNITS ? UNITS[u] : u);
const channel = (c) => { const m = /^AU0*(\d+)_?[rc]?$/i.exec(c); return m ? `AU${m[1]} ${AUS[m[1]] || ""}`.trim() : c.replaceAll("_", " "); };

function time(t, span = about.longest) {
  if (span > 86400 * 1.5) return `day ${Math.floor(t / 86400) + 1}, ${String(Math.floor(t / 3600) % 24).padStart(2, "0")}:${String(Math.floor(t / 60) % 60).padStart(2, "0")}`;
  if (span > 5400) return `${Math.floor(t / 3600)}:${String(Math.floor(t / 60) % 60).padStart(2, "0")} h`;
  if (span > 150) return `${Math.floor(t / 60)}:${String(Math.floor(t) % 60).padStart(2, "0")}`;
  return `${t.toFixed(span > 20 ? 1 : 2)} s`;
}
function number(x) {
  if (!Number.isFinite(x)) return "–";
  const a = Math.abs(x);
  return (a >= 100 ? x.toFixed(0) : a >= 10 ? x.toFixed(1) : x.toFixed(2)).replace("-", "−");
}
function nonce() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

// --- where answers go: a server, or this browser -------------------------------------------------------------
class Problem extends Error { constructor(status, message) { super(message); this.status = status; } }

function online() {
  const token = new URLSearchParams(location.hash.slice(1)).get("seat") || "";
  async function ask(path, form) {
    const how = {headers: {"X-Seat": token}, cache: "no-store", credentials: "omit"};
    if (form) {
      Object.assign(how, {method: "POST", body: JSON.stringify({study: about.study, ...form})});
      how.headers["Content-Type"] = "application/json";
    }
    const got = await fetch(path, how);
    const said = await got.json().catch(() => ({error: `the studio answered ${got.status}`}));
    if (!got.ok) throw new Problem(got.status, said.error);
    return said;
  }
  return {
    start: () => ask("api/seat"),
    recording: (pair, side) => ask(`api/recording/${encodeURIComponent(pair.pair)}/${side}`),
    answer: (form) => ask("api/answer", form),
    undo: (state) => ask("api/undo", {answer: state.last}),
    advise: (form) => ask("api/advice", form),
    mine: async () => (await ask("api/mine")).answers.map((a) => JSON.stringify(a)).join("\n") + "\n",
  };
}

function offline(data) {
  const place = `mien ${data.study} ${data.rater}`;
  let rows = [];
  const own = (r) => ({...r, seal: data.seal}); // also of what an older page of this rater's kept or saved
  try { rows = JSON.parse(localStorage.getItem(place) || "[]").map(own); } catch { banner("kept", "This browser keeps nothing for files: save your answers before you close the page."); }
  const keep = () => { try { localStorage.setItem(place, JSON.stringify(rows)); } catch { banner("kept", "This browser could not keep the answer: save your answers now."); } };
  const add = (what, form) => {
    if (!rows.some((r) => r.what === what && r.nonce === form.nonce)) {
      rows.push({study: data.study, rater: data.rater, seal: data.seal, what, ...form, at: new Date().toISOString()});
      keep();
    }
    return state();
  };
  function state() {
    const gone = new Set(rows.filter((r) => r.what === "undo").map((r) => r.nonce));
    const done = new Map();
    for (const r of rows) if (r.what === "answer" && !gone.has(r.nonce)) done.set(r.pair, r);
    const closed = new Set();
    for (const r of rows) if (r.what === "advice" && r.kind === "recognise") {
      const p = data.pairs.find((x) => x.pair === r.pair);
      if (p) closed.add(data.of[p[r.side]]);
    }
    const open = data.pairs.filter((p) => done.has(p.pair) || !(closed.has(data.of[p.left]) || closed.has(data.of[p.right])));
    const upcoming = open.filter((p) => !done.has(p.pair)).slice(0, 2).map((p) => ({
      pair: p.pair, label: p.label, nonce: nonce(), left: p.left, right: p.right,
      advice: rows.filter((r) => r.what === "advice" && r.pair === p.pair).map((r) => ({side: r.side, kind: r.kind, ...r.body})),
    }));
    return {done: done.size, total: open.length, upcoming, last: done.size ? [...done.values()].pop() : null};
  }
  return {
    start: async () => ({...data, ...state()}),
    recording: async (pair, side) => data.recordings[pair[side]],
    answer: async (form) => add("answer", form),
    undo: async (now) => { const said = now.last; add("undo", {nonce: said.nonce}); return {undone: said, ...state()}; },
    advise: async (form) => add("advice", form),
    mine: async () => rows.map((r) => JSON.stringify(r)).join("\n") + "\n",
    take: async (text) => {
      const read = text.split("\n").filter((l) => l.trim()).map((l) => JSON.parse(l));
      if (read.some((r) => r.study !== data.study || r.rater !== data.rater)) throw new Problem(409, "These answers are of another study or another rater.");
      for (const r of read) if (!rows.some((x) => x.what === r.what && x.nonce === r.nonce)) rows.push(own(r));
      rows.sort((x, y) => (x.at < y.at ? -1 : x.at > y.at ? 1 : 0));
      keep();
      return state();
    },
  };
}

// --- state ---------------------------------------------------------------------------------------------------
let about = {longest: 60}, backend, state, pair = null, draft = null, shownAt = 0, busy = false;
let view = {from: 0, to: 60}, cursor = 0, mode = "look", playing = false, hear = "left", lanes = [], actors = [];
let ahead = 0; // the timer of what is fetched for the pair after this one
let stale = false; // somebody was recognised while something was in flight: what comes next is to be asked for anew
const ready = new Map(); // "pair side" -> a promise of a recording

function load(p, side) {
  const key = `${p.pair} ${side}`;
  if (!ready.has(key)) {
    const made = again(() => backend.recording(p, side)).then(prepare);
    made.catch(() => ready.delete(key));
    ready.set(key, made);
  }
  return ready.get(key);
}

function bytes(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

function prepare(sent) {
  if (!ink.ink) colours();
  const streams = sent.streams.map((s) => {
    const made = {...s};
    if (s.values !== undefined) made.values = new Float32Array(bytes(s.values).buffer);
    if (s.spectrogram) { made.spectrogram = bytes(s.spectrogram); spectrogram(made); }
    if (s.wav) made.url = URL.createObjectURL(new Blob([bytes(s.wav)], {type: "audio/wav"}));
    if (s.pictures) made.pictures = s.pictures.map((p) => { const i = new Image(); i.onload = redraw; i.src = `data:image/jpeg;base64,${p}`; return i; });
    return made;
  });
  return {seconds: sent.seconds, vitals: sent.vitals, streams: new Map(streams.map((s) => [s.name, s]))};
}

function forget() {
  const near = new Set(state.upcoming.flatMap((p) => SIDES.map((s) => `${p.pair} ${s}`)));
  for (const [key, made] of ready) if (!near.has(key)) {
    ready.delete(key);
    made.then((r) => r.streams.forEach((s) => s.url && URL.revokeObjectURL(s.url)), () => {});
  }
}

// a request that cannot reach the studio is tried until it does: a form says the same thing however often it is sent
async function again(call) {
  for (let wait = 300; ; wait = Math.min(4000, wait * 1.5)) {
    try {
      const got = await call();
      banner("offline", "");
      return got;
    } catch (error) {
      if (error instanceof Problem) throw error;
      banner("offline", "The studio does not answer. What you said is kept here and sent as soon as it does.");
      await new Promise((go) => setTimeout(go, wait));
    }
  }
}

// each trouble has its own line: a recording that arrives mends the connection, not the answer that was refused
const troubles = new Map();
function banner(kind, text) {
  troubles.set(kind, text);
  $("banner").textContent = [...troubles.values()].filter(Boolean).join(" ");
  $("banner").hidden = !$("banner").textContent;
}
let fading;
function tell(text) {
  $("status").textContent = text;
  $("status").classList.add("on");
  clearTimeout(fading);
  fading = setTimeout(() => $("status").classList.remove("on"), 2600);
}
function message(title, ...texts) {
  const place = $("message");
  place.replaceChildren(el("h1", {text: title}), ...texts.map((t) => (typeof t === "string" ? el("p", {text: t}) : t)));
  $("rate").hidden = $("answer").hidden = true;
  place.hidden = false;
  place.focus();
}

// --- drafts: what was not sent yet survives a reload ----------------------------------------------------------
const empty = () => ({choice: null, confidence: 3, aspects: {}, comment: "", ratings: {}, notes: {}, regions: [], moves: {left: {}, right: {}}, nonces: {}});
const draftPlace = (p) => `mien draft ${about.study} ${about.rater} ${p.pair}`;
function save() { try { sessionStorage.setItem(draftPlace(pair), JSON.stringify(draft)); } catch { /* a draft is a convenience */ } }
function saved(p) { try { return {...empty(), ...JSON.parse(sessionStorage.getItem(draftPlace(p)) || "{}")}; } catch { return empty(); } }
function drop(p) { try { sessionStorage.removeItem(draftPlace(p)); } catch { /* as above */ } }
const noncefor = (what) => (draft.nonces[what] ||= nonce());

// --- who was recognised: sent beside whatever is in flight, and kept, over a closed page too, until the studio has it ---------
const unsentPlace = () => `mien recognised ${about.study} ${about.rater}`;
let unsent = []; // of this page; what is stored may also hold another window's
function kept() {
  let stored = [];
  try { stored = JSON.parse(localStorage.getItem(unsentPlace()) || "[]"); } catch { /* this page still has its own */ }
  return [...unsent, ...stored.filter((f) => !unsent.some((u) => u.nonce === f.nonce))];
}
function keep(forms) {
  unsent = forms;
  try { forms.length ? localStorage.setItem(unsentPlace(), JSON.stringify(forms)) : localStorage.removeItem(unsentPlace()); } catch { /* this page still has them */ }
}
async function deliver() { // a form sent twice is stored once
  const forms = kept();
  for (const form of forms) {
    await again(() => backend.advise(form));
    keep(kept().filter((f) => f.nonce !== form.nonce));
  }
  return forms.length > 0;
}

// --- one pair --------------------------------------------------------------------------------------------------
async function show(filled) {
  stop();
  clearTimeout(ahead);
  $("count").textContent = `${state.done} of ${state.total}`;
  $("bar").max = Math.max(1, state.total);
  $("bar").value = state.done;
  $("undo").disabled = state.last === null;
  if (!state.upcoming.length) {
    pair = null;
    const more = backend.take ? "Save your answers and send the file to whoever gave you this page." : "You can close this window. Your answers are stored.";
    message("All done. Thank you.", `You have compared ${state.done} pairs.`, more);
    return;
  }
  const next = state.upcoming[0];
  const both = await Promise.all(SIDES.map((s) => load(next, s)));
  pair = {...next, left: both[0], right: both[1]};
  draft = saved(pair);
  if (filled && filled.pair === pair.pair) Object.assign(draft, {choice: filled.choice, confidence: filled.confidence, aspects: {...filled.aspects}, comment: filled.comment});
  about.longest = Math.max(1e-3, pair.left.seconds, pair.right.seconds);
  view = {from: 0, to: about.longest};
  cursor = 0;
  $("message").hidden = true;
  $("rate").hidden = $("answer").hidden = false;
  question();
  vitals();
  buildStage();
  buildLanes();
  fill();
  setMode("look");
  shownAt = performance.now();
  window.scrollTo(0, 0);
  $("question").focus({preventScroll: true});
  redraw();
  forget();
  const after = state.upcoming[1];
  // once this pair is drawn; unless by then another comes next, for somebody was recognised, say
  if (after) ahead = setTimeout(() => SIDES.forEach((s) => load(after, s).catch(() => {})), 250);
}

function question() {
  const h = $("question");
  h.textContent = "Which one would you sooner believe?";
  const said = $("notice");
  said.replaceChildren();
  const bare = /^(yes|no|true|false|[\d.]+)$/i.test(pair.label);
  if (pair.label) said.append(el("span", {class: "soft", text: "Both should show "}), el("span", {class: "pill", text: bare ? `${about.task}: ${pair.label}` : pair.label.replaceAll("_", " ")}), " ");
  if (about.notice) said.append(about.notice);
}

function svg(tag, props) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [k, v] of Object.entries(props)) made.setAttribute(k, v);
  return made;
}

function vitals() {
  const place = $("vitals"), rows = [];
  for (const [name, r] of Object.entries(about.ranges)) {
    const values = SIDES.map((s) => pair[s].vitals[name]);
    if (values.every((v) => v === undefined)) continue;
    const at = (v) => 100 * clamp((v - r.least) / (r.most - r.least), 0, 1);
    const bar = svg("svg", {viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true"});
    bar.append(svg("rect", {x: 0, y: 8, width: 100, height: 4, rx: 2, fill: "var(--band)"}),
      svg("rect", {x: at(r.low), y: 6, width: at(r.high) - at(r.low), height: 8, rx: 2, fill: "var(--ok)"}));
    values.forEach((v, i) => {
      if (v !== undefined) bar.append(svg("path", {d: `M${at(v)} ${i ? 11 : 9}l2.2 ${i ? 8 : -8}h-4.4z`, fill: i ? "var(--b)" : "var(--a)"}));
    });
    const off = (v) => v !== undefined && (v < r.low || v > r.high);
    const cell = (v, side) => el("span", {class: `v ${side}${off(v) ? " off" : ""}`, role: "cell", title: off(v) ? "outside the usual range" : ""},
      v === undefined ? "–" : number(v), el("span", {class: "soft", text: ""}));
    const label = el("span", {role: "rowheader"}, name, " ", el("small", {text: `${r.low}–${r.high} ${r.unit}`}));
    const holder = el("span", {role: "cell", title: `usual range ${r.low} to ${r.high} ${r.unit}: ${r.source}`, "aria-label": `usually ${r.low} to ${r.high}`}, bar);
    rows.push(el("div", {class: "vital", role: "row"}, label, cell(values[0], "a"), holder, cell(values[1], "b")));
  }
  place.hidden = !rows.length;
  const head = el("div", {class: "vital head", role: "row"}, el("span", {role: "columnheader", text: "Vital signs"}), el("span", {class: "v a", role: "columnheader", text: "A"}),
    el("span", {role: "columnheader", class: "middle", text: "usual at rest"}), el("span", {class: "v b", role: "columnheader", text: "B"}));
  place.replaceChildren(head, ...rows);
}

// --- colours and canvases ---------------------------------------------------------------------------------------
let ink = {};
function colours() {
  const style = getComputedStyle(document.documentElement);
  for (const k of ["ink", "soft", "line", "grid", "card", "band", "a", "b", "c1", "c2", "c3", "wrong", "wrong-soft", "focus"]) ink[k] = style.getPropertyValue(`--${k}`).trim();
  ink.dark = matchMedia("(prefers-color-scheme: dark)").matches;
}
// perceptually even, from paper to ink in steps of one hue (light), or from dark to light
function heat(v) {
  const stops = ink.dark ? [[26, 31, 37], [58, 46, 108], [150, 60, 130], [238, 121, 92], [252, 230, 160]] : [[255, 255, 255], [252, 214, 165], [233, 120, 96], [150, 45, 120], [38, 16, 72]];
  const x = clamp(v, 0, 1) * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(x)), f = x - i;
  return stops[i].map((c, k) => c + f * (stops[i + 1][k] - c));
}
const GUTTER = 46, RIGHT = 6;

function sized(canvas, height) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || canvas.parentElement.clientWidth;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
  }
  const c = canvas.getContext("2d");
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  c.font = "11px system-ui, sans-serif";
  return [c, width, height];
}
const xOf = (t, w) => GUTTER + (t - view.from) / (view.to - view.from) * (w - GUTTER - RIGHT);
const tOf = (x, w) => view.from + (x - GUTTER) / (w - GUTTER - RIGHT) * (view.to - view.from);

function ticks(low, high, most) {
  const span = high - low;
  if (!(span > 0)) return [low];
  const steps = [1, 2, 2.5, 5, 10], size = 10 ** Math.floor(Math.log10(span / most));
  const step = steps.map((s) => s * size).find((s) => span / s <= most) || 10 * size;
  const out = [];
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9 * span; v += step) out.push(Math.abs(v) < 1e-12 ? 0 : v);
  return out;
}
function timeTicks(w) {
  const span = view.to - view.from, most = Math.max(2, (w - GUTTER) / 90);
  if (span < 150) return ticks(view.from, view.to, most);
  const step = [10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800].find((s) => span / s <= most) || 604800;
  const out = [];
  for (let v = Math.ceil(view.from / step) * step; v <= view.to; v += step) out.push(v);
  return out;
}
function tickWord(t) {
  const span = view.to - view.from;
  if (span < 150) return `${+t.toFixed(3)} s`;
  if (span < 5400) return time(t, 200);
  const h = Math.floor(t / 3600) % 24;
  if (about.longest <= 86400 * 1.5) return `${Math.floor(t / 3600)} h`;
  return span > 86400 * 3 || h === 0 ? `day ${Math.floor(t / 86400) + 1}` : `${h}:00`;
}

// --- lanes -------------------------------------------------------------------------------------------------------
function buildLanes() {
  const names = [...new Set(SIDES.flatMap((s) => [...pair[s].streams.keys()]))].filter((n) => SIDES.every((s) => pair[s].streams.get(n)?.kind !== "video"));
  const twice = (name) => names.some((other) => other !== name && human(other) === human(name));
  lanes = names.map((name) => lane(name, twice(name)));
  $("lanes").replaceChildren(...lanes.map((l) => l.box));
  $("mode-correct").hidden = !lanes.some((l) => l.marks);
  const sound = SIDES.filter((s) => soundOf(s));
  $("hear").hidden = sound.length < 2;
  if (sound.length && !sound.includes(hear)) hear = sound[0];
}

function kindOf(s) {
  if (s.kind === "signal" && s.channels.length > 3) return "heat";
  return s.kind;
}
const HEIGHTS = {signal: () => 104, heat: (s) => 10.5 * s.channels.length + 8, sound: () => 150, events: (s) => 22 * s.kinds.length + 14, text: () => 44};

function lane(name, plain) {
  const both = SIDES.map((s) => pair[s].streams.get(name)), some = both.find(Boolean), kind = kindOf(some);
  const title = el("h3", {title: name}, plain ? `${human(name)}: ${name.replaceAll("_", " ")}` : human(name));
  if (unit(some.unit || "")) title.append(el("span", {class: "soft", text: unit(some.unit)}));
  if (kind === "signal" && some.channels.length > 1) some.channels.forEach((c, i) => title.append(el("span", {class: `key c${i}`, text: channel(c)})));
  const made = {name, kind, title, marks: both.some((s) => s?.marks?.times.length), height: HEIGHTS[kind](some), scale: scale(both.filter(Boolean), kind), cells: {}};
  const cells = SIDES.map((side, i) => {
    const s = both[i];
    const box = el("div", {class: `cell ${i ? "b" : "a"}`});
    if (!s) { box.append(el("div", {class: "none", text: `${LETTER[side]} has no such stream`})); return box; }
    const canvas = el("canvas", {tabindex: "0", role: "img", "aria-label": `${human(name)} of ${LETTER[side]}. ${described(s)}`});
    box.append(canvas);
    const cell = {side, stream: s, canvas, lane: made, kept: document.createElement("canvas"), key: "", chosen: 0};
    canvas.cell = cell;
    made.cells[side] = cell;
    listen(cell);
    return box;
  });
  made.box = el("div", {class: "lane"}, title, el("div", {class: "two"}, ...cells));
  return made;
}

function described(s) {
  if (s.kind === "events") return `${s.times.length} events.`;
  if (s.kind === "text") return `${s.text.length} utterances: ${s.text.join(" ").slice(0, 300)}`;
  const [low, high] = span([s]);
  const marks = s.marks ? ` ${s.marks.times.length} ${s.marks.kind === "beat" ? "heartbeats" : "skin responses"} detected.` : "";
  return `From ${number(low)} to ${number(high)} ${unit(s.unit)}.${marks}`;
}

function span(streams) {
  let low = Infinity, high = -Infinity;
  for (const s of streams) for (const v of s.values) if (v === v) { if (v < low) low = v; if (v > high) high = v; }
  return low <= high ? [low, high] : [0, 1];
}
// what a lane shows at the least, or the sensor's own noise would fill it and look like a sign
const LEAST = {degC: 1, uS: 0.2, g: 0.05, bpm: 5};
// one scale for both sides, and none of them moves when one zooms
function scale(streams, kind) {
  if (kind === "events" || kind === "text") return [0, 1];
  let [low, high] = span(streams);
  if (kind === "sound") { const most = Math.max(0.02, Math.abs(low), Math.abs(high)); return [-most, most]; }
  if (kind === "heat") return [Math.min(0, low), Math.max(high, 1e-6)];
  if (high - low < 1e-6 * Math.max(1, Math.abs(high))) { low -= 0.5; high += 0.5; }
  const least = Math.max(0, ...streams.map((x) => LEAST[x.unit] || 0));
  if (high - low < least) { const middle = (low + high) / 2; low = middle - least / 2; high = middle + least / 2; }
  const room = 0.08 * (high - low), above = streams.some((s) => s.marks) ? 2.4 : 1; // room for the marks
  return [low - room, high + above * room];
}

function redraw() { if (!redraw.asked) { redraw.asked = true; requestAnimationFrame(() => { redraw.asked = false; draw(); }); } }

function draw() {
  if (!pair) return;
  if (!ink.ink) colours();
  $("clock").textContent = time(cursor);
  for (const side of SIDES) ruler(side);
  for (const l of lanes) for (const cell of Object.values(l.cells)) drawCell(cell);
  for (const actor of actors) act(actor);
}

function ruler(side) {
  const canvas = $(`ruler-${side}`);
  if (!canvas.clientWidth) return;
  const [c, w, h] = sized(canvas, 26);
  c.clearRect(0, 0, w, h);
  c.fillStyle = ink.soft;
  c.strokeStyle = ink.line;
  c.textAlign = "center";
  for (const t of timeTicks(w)) {
    const x = xOf(t, w);
    c.beginPath(); c.moveTo(x, h - 5); c.lineTo(x, h); c.stroke();
    const word = tickWord(t), half = c.measureText(word).width / 2;
    c.fillText(word, clamp(x, GUTTER + half - 12, w - half - 1), h - 9);
  }
  const x = xOf(cursor, w);
  if (x >= GUTTER - 1 && x <= w) {
    c.fillStyle = side === "left" ? ink.a : ink.b;
    c.beginPath(); c.moveTo(x - 5, h - 8); c.lineTo(x + 5, h - 8); c.lineTo(x, h); c.fill();
  }
}

function drawCell(cell) {
  const {canvas, lane: l, side, stream} = cell;
  const [c, w, h] = sized(canvas, l.height);
  const moves = movesOf(side, l.name), told = marked(side, l.name);
  const key = JSON.stringify([canvas.width, canvas.height, view, ink.dark, moves, told, cell.drag || 0, mode === "correct" && [cell.chosen, document.activeElement === canvas]]);
  if (cell.key !== key) {
    cell.key = key;
    cell.kept.width = canvas.width;
    cell.kept.height = canvas.height;
    const k = cell.kept.getContext("2d");
    k.setTransform(canvas.width / w, 0, 0, canvas.height / h, 0, 0);
    k.font = c.font;
    ({signal: line, heat: heatmap, sound, events, text: words})[l.kind](k, w, h, cell);
    regions(k, w, h, told, cell.drag);
    if (stream.marks) marks(k, w, h, cell, moves);
  }
  c.setTransform(1, 0, 0, 1, 0, 0);
  c.clearRect(0, 0, canvas.width, canvas.height);
  c.drawImage(cell.kept, 0, 0);
  sized(canvas, l.height);
  const x = xOf(cursor, w);
  if (x >= GUTTER && x <= w - RIGHT) {
    c.strokeStyle = ink.ink; c.globalAlpha = 0.55; c.lineWidth = 1;
    c.beginPath(); c.moveTo(x, 0); c.lineTo(x, h); c.stroke();
    c.globalAlpha = 1;
    const word = readout(cell);
    if (word) {
      c.textAlign = x > w - 90 ? "right" : "left";
      const at = x > w - 90 ? x - 5 : x + 5, wide = c.measureText(word).width;
      c.fillStyle = ink.card; c.globalAlpha = 0.85;
      c.fillRect(c.textAlign === "right" ? at - wide - 2 : at - 2, h - 17, wide + 4, 14);
      c.globalAlpha = 1; c.fillStyle = ink.ink; c.fillText(word, at, h - 6);
    }
  }
}

function value(s, t, k = 0) {
  const i = Math.round((t - s.offset) * s.rate);
  return i < 0 || i * s.channels.length >= s.values.length ? NaN : s.values[i * s.channels.length + k];
}
function readout(cell) {
  const s = cell.stream;
  if (cell.lane.kind !== "signal" || cursor === 0) return "";
  const said = s.channels.map((_, k) => value(s, cursor, k));
  return said.some((v) => v === v) ? `${said.map(number).join("  ")} ${unit(s.unit)}` : "";
}

function frame(c, w, h, low, high) {
  c.clearRect(0, 0, w, h);
  c.strokeStyle = ink.grid;
  c.lineWidth = 1;
  for (const t of timeTicks(w)) { const x = Math.round(xOf(t, w)) + 0.5; if (x > GUTTER) { c.beginPath(); c.moveTo(x, 0); c.lineTo(x, h); c.stroke(); } }
  if (low === undefined) return;
  c.fillStyle = ink.soft;
  c.textAlign = "right";
  for (const v of ticks(low, high, h / 34)) {
    const y = h - (v - low) / (high - low) * h;
    c.beginPath(); c.moveTo(GUTTER, y); c.lineTo(w - RIGHT, y); c.stroke();
    c.fillText(`${+v.toPrecision(4)}`.replace("-", "−"), GUTTER - 5, clamp(y + 4, 10, h - 2));
  }
}

function line(c, w, h, cell) {
  const [low, high] = cell.lane.scale, s = changed(cell), n = s.channels.length;
  frame(c, w, h, low, high);
  const yOf = (v) => h - (v - low) / (high - low) * h;
  c.save();
  c.beginPath(); c.rect(GUTTER, 0, w - GUTTER - RIGHT, h); c.clip();
  for (let k = 0; k < n; k++) {
    c.strokeStyle = n > 1 ? ink[`c${k + 1}`] : cell.side === "left" ? ink.a : ink.b;
    trace(c, s, k, w, yOf);
  }
  c.restore();
}

function trace(c, s, k, w, yOf) {
  const n = s.channels.length, total = s.values.length / n;
  const first = Math.max(0, Math.floor((view.from - s.offset) * s.rate) - 1), last = Math.min(total, Math.ceil((view.to - s.offset) * s.rate) + 2);
  const per = (last - first) / Math.max(1, w - GUTTER);
  if (per >= 3) { columns(c, s, k, w, yOf, first, last); return; }
  c.lineWidth = per > 0.4 ? 1.1 : 1.6;
  c.lineJoin = "round";
  c.beginPath();
  let open = false;
  for (let i = first; i < last; i++) {
    const v = s.values[i * n + k];
    if (v !== v) { open = false; continue; }
    const x = xOf(s.offset + i / s.rate, w), y = yOf(v);
    if (open) c.lineTo(x, y); else c.moveTo(x, y);
    if (total < 60) c.lineTo(xOf(s.offset + (i + 1) / s.rate, w), y); // few values, each of a whole stretch
    open = true;
  }
  c.stroke();
}

// many values a pixel: the least and the largest of each column, joined to the column before; as bars, for without a graphics
// card a browser takes several times as long over the same as a zigzag
function columns(c, s, k, w, yOf, first, last) {
  const n = s.channels.length;
  c.fillStyle = c.strokeStyle;
  let before = null;
  for (let i = first; i < last;) {
    const x = Math.floor(xOf(s.offset + i / s.rate, w)), until = Math.min(last, Math.max(i + 1, Math.ceil((tOf(x + 1, w) - s.offset) * s.rate)));
    let low = Infinity, high = -Infinity;
    for (; i < until; i++) { const v = s.values[i * n + k]; if (v < low) low = v; if (v > high) high = v; }
    if (low > high) { before = null; continue; }
    const top = yOf(before ? Math.max(high, before[0]) : high), foot = yOf(before ? Math.min(low, before[1]) : low);
    c.fillRect(x, top - 0.55, 1, foot - top + 1.1);
    before = [low, high];
  }
}

function heatmap(c, w, h, cell) {
  const s = cell.stream, n = s.channels.length, [low, high] = cell.lane.scale, row = (h - 8) / n;
  frame(c, w, h);
  const columns = Math.max(1, Math.round(w - GUTTER - RIGHT)), picture = new ImageData(columns, n);
  for (let x = 0; x < columns; x++) {
    const t0 = tOf(GUTTER + x, w), i0 = Math.max(0, Math.round((t0 - s.offset) * s.rate)), i1 = Math.min(s.values.length / n, Math.max(i0 + 1, Math.round((tOf(GUTTER + x + 1, w) - s.offset) * s.rate)));
    for (let k = 0; k < n; k++) {
      let most = -Infinity;
      for (let i = i0; i < i1; i++) { const v = s.values[i * n + k]; if (v > most) most = v; }
      if (most === -Infinity) continue;
      const [r, g, b] = heat((most - low) / (high - low)), at = 4 * (k * columns + x);
      picture.data[at] = r; picture.data[at + 1] = g; picture.data[at + 2] = b; picture.data[at + 3] = 255;
    }
  }
  stretch(c, picture, GUTTER, 4, w - GUTTER - RIGHT, h - 8);
  c.fillStyle = ink.soft; c.textAlign = "right"; c.font = "9px system-ui, sans-serif";
  s.channels.forEach((name, k) => c.fillText(channel(name).split(" ")[0].slice(0, 8), GUTTER - 4, 4 + row * (k + 0.5) + 3));
  c.font = "11px system-ui, sans-serif";
}
function stretch(c, picture, x, y, w, h) {
  const small = document.createElement("canvas");
  small.width = picture.width; small.height = picture.height;
  small.getContext("2d").putImageData(picture, 0, 0);
  c.imageSmoothingEnabled = false;
  c.drawImage(small, x, y, w, h);
}

function sound(c, w, h, cell) {
  const s = cell.stream, [low, high] = cell.lane.scale, top = 44;
  frame(c, w, h);
  c.save();
  c.beginPath(); c.rect(GUTTER, 0, w - GUTTER - RIGHT, h); c.clip();
  c.strokeStyle = cell.side === "left" ? ink.a : ink.b;
  trace(c, s, 0, w, (v) => top - (v - low) / (high - low) * top);
  if (s.spectrogram) {
    const frames = s.spectrogram.length / s.bands;
    const picture = spectrogram(s);
    const x0 = xOf(s.offset + s.first - s.hop / 2, w), x1 = xOf(s.offset + s.first + (frames - 0.5) * s.hop, w);
    c.drawImage(picture, x0, top + 4, x1 - x0, h - top - 4);
  }
  c.restore();
  c.fillStyle = ink.soft; c.textAlign = "right";
  if (s.top) for (const hz of ticks(0, s.top, 3)) if (hz) c.fillText(`${hz / 1000} kHz`, GUTTER - 4, clamp(h - hz / s.top * (h - top - 4) + 4, top + 12, h - 2));
}

function spectrogram(s) { // made when a recording arrives, and again when the colours change
  if (s.picture?.dark !== ink.dark) {
    const frames = s.spectrogram.length / s.bands, data = new ImageData(frames, s.bands), pixels = new Uint32Array(data.data.buffer);
    const table = Uint32Array.from({length: 256}, (_, v) => new Uint32Array(Uint8ClampedArray.of(...heat(v / 255), 255).buffer)[0]);
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[s.spectrogram[i]];
    const kept = document.createElement("canvas");
    kept.width = frames; kept.height = s.bands;
    kept.getContext("2d").putImageData(data, 0, 0);
    s.picture = {dark: ink.dark, kept};
  }
  return s.picture.kept;
}

function events(c, w, h, cell) {
  const s = cell.stream;
  frame(c, w, h);
  c.textAlign = "right";
  s.kinds.forEach((kind, k) => {
    const y = 7 + 22 * k;
    c.fillStyle = k % 2 ? "transparent" : ink.band;
    c.fillRect(GUTTER, y, w - GUTTER - RIGHT, 22);
    c.fillStyle = ink.soft;
    c.font = "10px system-ui, sans-serif";
    c.fillText(kind.slice(0, 9), GUTTER - 4, y + 15);
  });
  c.save();
  c.beginPath(); c.rect(GUTTER, 0, w - GUTTER - RIGHT, h); c.clip();
  s.times.forEach((t, i) => {
    const x = xOf(t, w), long = Math.max(3, xOf(t + s.durations[i], w) - x), y = 7 + 22 * s.codes[i];
    if (x + long < GUTTER || x > w) return;
    c.fillStyle = ink[`c${s.codes[i] % 3 + 1}`];
    c.globalAlpha = 0.85;
    c.beginPath(); c.roundRect(x, y + 4, long, 14, 3); c.fill();
    c.globalAlpha = 1;
    if (s.party[i] >= 0 && long > 12) { c.fillStyle = ink.card; c.textAlign = "left"; c.font = "600 10px system-ui, sans-serif"; c.fillText(`${s.party[i] + 1}`, x + 3, y + 15); }
  });
  c.restore();
  c.font = "11px system-ui, sans-serif";
}

function words(c, w, h, cell) {
  const s = cell.stream;
  frame(c, w, h);
  c.save();
  c.beginPath(); c.rect(GUTTER, 0, w - GUTTER - RIGHT, h); c.clip();
  c.textAlign = "left";
  s.times.forEach((t, i) => {
    const x = xOf(t, w), long = Math.max(3, xOf(s.ends[i], w) - x), now = cursor >= t && cursor <= s.ends[i];
    c.fillStyle = now ? (cell.side === "left" ? ink.a : ink.b) : ink.band;
    c.beginPath(); c.roundRect(x, 8, long, h - 16, 4); c.fill();
    c.save();
    c.beginPath(); c.rect(x, 0, long - 3, h); c.clip();
    c.fillStyle = now ? ink.card : ink.ink;
    c.fillText(s.text[i], Math.max(x, GUTTER) + 5, h / 2 + 4);
    c.restore();
  });
  c.restore();
  cell.key = s.times.some((t, i) => cursor >= t && cursor <= s.ends[i]) ? "" : cell.key; // drawn anew while somebody speaks
}

// --- what was marked, and what was moved ---------------------------------------------------------------------------
function marked(side, name) {
  const now = draft.regions.filter((r) => r.side === side && r.stream === name).map((r) => [r.start, r.end]);
  return now.concat(pair.advice.filter((d) => d.kind === "region" && d.side === side && d.stream === name).map((r) => [r.start, r.end]));
}
function regions(c, w, h, told, drag) {
  for (const [from, to] of drag?.region ? [...told, drag.region] : told) {
    const x0 = clamp(xOf(Math.min(from, to), w), GUTTER, w - RIGHT), x1 = clamp(xOf(Math.max(from, to), w), GUTTER, w - RIGHT);
    if (x1 <= x0) continue;
    c.fillStyle = ink["wrong-soft"];
    c.fillRect(x0, 0, x1 - x0, h);
    c.strokeStyle = ink.wrong; c.lineWidth = 1.5;
    c.beginPath(); c.moveTo(x0, 0); c.lineTo(x0, h); c.moveTo(x1, 0); c.lineTo(x1, h); c.stroke();
  }
}
function movesOf(side, name) {
  const now = draft.moves[side][name];
  if (now) return now;
  const old = pair.advice.filter((d) => d.kind === "correction" && d.side === side && d.stream === name).pop();
  return old ? Object.fromEntries(old.moves.map(([i, to, more]) => [i, [to, more]])) : {};
}
function placed(s, moves) { return s.marks.times.map((t, i) => (moves[i] ? moves[i][0] : t)); }

function interp(x, from, to) { // piecewise linear, from ascending
  let a = 0, b = from.length - 1;
  while (b - a > 1) { const m = (a + b) >> 1; if (from[m] <= x) a = m; else b = m; }
  const d = from[b] - from[a];
  return d > 0 ? to[a] + (x - from[a]) / d * (to[b] - to[a]) : to[a];
}
// the curve as it is once its marks are where they were dragged; studio/mended.py makes the recording by the same rule
function changed(cell) {
  const s = cell.stream, moves = s.marks ? movesOf(cell.side, cell.lane.name) : {};
  if (!Object.keys(moves).length) return s;
  const key = JSON.stringify(moves);
  if (cell.changed?.key === key) return cell.changed.s;
  const n = s.channels.length, total = s.values.length / n, end = (total - 1) / s.rate;
  const old = [0, ...s.marks.times.map((t) => t - s.offset), end], now = [0, ...placed(s, moves).map((t) => t - s.offset), end];
  const values = new Float32Array(s.values.length);
  for (let i = 0; i < total; i++) {
    const x = clamp(interp(i / s.rate, now, old) * s.rate, 0, total - 1), j = Math.min(total - 2, Math.floor(x)), f = x - j;
    for (let k = 0; k < n; k++) values[i * n + k] = s.values[j * n + k] * (1 - f) + s.values[(j + 1) * n + k] * f;
  }
  if (s.marks.kind === "scr") for (const [i, [, more]] of Object.entries(moves)) if (more) {
    const [before, peak, after] = [0, 1, 2].map((k) => clamp(Math.round(now[+i + k] * s.rate), 0, total - 1));
    const lowest = (from, to) => { let at = from; for (let j = from; j <= to; j++) if (values[j] < values[at]) at = j; return at; };
    const low = lowest(before, peak), high = lowest(peak, after), own = [];
    for (let j = low; j <= high; j++) own.push(values[j] - (values[low] + (high > low ? (j - low) / (high - low) : 0) * (values[high] - values[low])));
    const most = Math.max(0, ...own), by = Math.max(more * (s.unit === "nS" ? 1000 : 1), -most);
    if (most > 0) own.forEach((v, j) => { values[low + j] = Math.max(0, values[low + j] + by * clamp(v / most, 0, 1)); });
  }
  cell.changed = {key, s: {...s, values}};
  return cell.changed.s;
}

function peakAt(cell, s, t) {
  const [low, high] = cell.lane.scale, v = value(s, clamp(t, s.offset, s.offset + s.seconds - 1.5 / s.rate));
  return cell.lane.height * (1 - (v - low) / (high - low));
}
function marks(c, w, h, cell, moves) {
  const s = changed(cell), beat = s.marks.kind === "beat", big = mode === "correct";
  placed(s, moves).forEach((t, i) => {
    const x = xOf(t, w);
    if (x < GUTTER || x > w - RIGHT) return;
    c.fillStyle = moves[i] ? ink.focus : ink.ink;
    const r = big ? 5 : 3.4;
    if (beat) {
      c.globalAlpha = moves[i] || big ? 1 : 0.65;
      c.beginPath(); c.moveTo(x - r, 0); c.lineTo(x + r, 0); c.lineTo(x, 1.7 * r); c.fill();
    } else {
      const y = clamp(peakAt(cell, s, t), r, h - r);
      c.beginPath(); c.arc(x, y, r, 0, 7); c.fill();
      c.strokeStyle = ink.card; c.lineWidth = 1.5; c.stroke();
    }
    c.globalAlpha = 1;
    if (big && i === cell.chosen && document.activeElement === cell.canvas) {
      c.strokeStyle = ink.focus; c.lineWidth = 2;
      c.beginPath(); c.moveTo(x, 0); c.lineTo(x, h); c.stroke();
    }
  });
}

function move(cell, i, to, more) {
  const s = cell.stream, at = placed(s, movesOf(cell.side, cell.lane.name)), least = s.marks.kind === "beat" ? 0.2 : 0.5;
  const low = i ? Math.min(at[i], at[i - 1] + least) : s.offset + 0.02, high = i < at.length - 1 ? Math.max(at[i], at[i + 1] - least) : s.offset + s.seconds - 0.5;
  const moves = draft.moves[cell.side][cell.lane.name] ||= {...movesOf(cell.side, cell.lane.name)};
  moves[i] = [+clamp(to, low, high).toFixed(4), +clamp(more, -5, 5).toFixed(4)];
  save();
  redraw();
}

// a drag that was broken off, for the browser took the finger or a second one came: as it was before
function unmove(cell, moves) {
  if (moves) draft.moves[cell.side][cell.lane.name] = moves; else delete draft.moves[cell.side][cell.lane.name];
  save();
  redraw();
}

function region(cell, from, to) {
  const s = cell.stream, a = clamp(Math.min(from, to), 0, s.offset + s.seconds), b = clamp(Math.max(from, to), 0, s.offset + s.seconds);
  if (b - a < (view.to - view.from) / 400) return;
  draft.regions.push({side: cell.side, stream: cell.lane.name, start: +a.toFixed(3), end: +b.toFixed(3), nonce: nonce()});
  save();
  listAdvice();
  redraw();
  tell(`Marked in ${human(cell.lane.name)} of ${LETTER[cell.side]}`);
}

// --- the pointer -----------------------------------------------------------------------------------------------------
function listen(cell) {
  const {canvas} = cell, down = new Map();
  let start = null;
  const at = (e) => { const r = canvas.getBoundingClientRect(); return [e.clientX - r.left, e.clientY - r.top, r.width]; };
  canvas.addEventListener("pointerdown", (e) => {
    if (e.button) return;
    canvas.setPointerCapture(e.pointerId);
    const [x, y, w] = at(e);
    down.set(e.pointerId, x);
    if (down.size === 2) { const [p, q] = [...down.values()]; if (start?.mark !== undefined && start.moved) { unmove(cell, start.moves); listAdvice(); } start = {pinch: Math.abs(p - q), view: {...view}, middle: tOf((p + q) / 2, w)}; cell.drag = null; return; }
    start = {x, y, t: tOf(x, w), view: {...view}, moved: false};
    if (mode === "correct" && cell.stream.marks) {
      const near = placed(cell.stream, movesOf(cell.side, cell.lane.name)).map((t, i) => [Math.abs(xOf(t, w) - x), i]).sort((p, q) => p[0] - q[0])[0];
      if (near && near[0] < (e.pointerType === "mouse" ? 11 : 22)) { cell.chosen = start.mark = near[1]; start.was = movesOf(cell.side, cell.lane.name)[near[1]] || [cell.stream.marks.times[near[1]], 0]; start.moves = draft.moves[cell.side][cell.lane.name] && {...draft.moves[cell.side][cell.lane.name]}; }
    }
  });
  canvas.addEventListener("pointermove", (e) => {
    const [x, y, w] = at(e);
    if (!down.has(e.pointerId)) return;
    down.set(e.pointerId, x);
    if (start.pinch !== undefined) {
      if (down.size < 2) return;
      const [p, q] = [...down.values()], zoom = clamp(start.pinch / Math.max(20, Math.abs(p - q)), 0.02, 50), wide = (start.view.to - start.view.from) * zoom;
      const share = (start.middle - start.view.from) / (start.view.to - start.view.from);
      look(start.middle - share * wide, start.middle + (1 - share) * wide);
      return;
    }
    if (Math.abs(x - start.x) > 3 || Math.abs(y - start.y) > 3) start.moved = true;
    if (!start.moved) return;
    if (start.mark !== undefined) {
      const [low, high] = cell.lane.scale, rise = cell.stream.marks.kind === "scr" ? (start.y - y) / cell.lane.height * (high - low) / (cell.stream.unit === "nS" ? 1000 : 1) : 0;
      move(cell, start.mark, start.was[0] + tOf(x, w) - start.t, Math.abs(start.y - y) > 6 ? start.was[1] + rise : start.was[1]);
    } else if (mode === "mark") {
      cell.drag = {region: [start.t, clamp(tOf(x, w), view.from, view.to)]};
      redraw();
    } else {
      const by = (start.x - x) / (w - GUTTER - RIGHT) * (start.view.to - start.view.from);
      look(start.view.from + by, start.view.to + by);
    }
  });
  const up = (e) => {
    const [x, , w] = at(e);
    if (!down.delete(e.pointerId)) return;
    if (cell.drag?.region && e.type === "pointerup") region(cell, ...cell.drag.region);
    if (start?.mark !== undefined && start.moved) {
      if (e.type === "pointerup") tell("Moved; the curve follows"); else unmove(cell, start.moves);
      listAdvice();
    }
    if (start && !start.moved && start.pinch === undefined && e.type === "pointerup") seek(tOf(x, w));
    cell.drag = null;
    if (!down.size) start = null;
    redraw();
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  // a finger on a mark drags it, up too; anywhere else it still scrolls the page
  canvas.addEventListener("touchstart", (e) => { if (start?.mark !== undefined) e.preventDefault(); }, {passive: false});
  canvas.addEventListener("dblclick", (e) => { const [x, , w] = at(e); zoom(0.4, tOf(x, w)); });
  canvas.addEventListener("wheel", (e) => {
    const [x, , w] = at(e);
    if (e.ctrlKey || e.metaKey) { e.preventDefault(); zoom(Math.exp(clamp(e.deltaY, -60, 60) / 120), tOf(x, w)); }
    else if (Math.abs(e.deltaX) > Math.abs(e.deltaY) || e.shiftKey) { e.preventDefault(); pan((e.deltaX || e.deltaY) / (w - GUTTER)); }
  }, {passive: false});
  canvas.addEventListener("keydown", (e) => laneKey(e, cell));
  canvas.addEventListener("focus", redraw);
  canvas.addEventListener("blur", redraw);
}

function laneKey(e, cell) {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  let done = true;
  const s = cell.stream;
  if (e.key === "[") { cell.from = cursor; tell(`From ${time(cursor)}; ] ends it`); }
  else if (e.key === "]") { if (cell.from === undefined) tell("[ begins a stretch"); else { region(cell, cell.from, cursor); cell.from = undefined; } }
  else if (mode === "correct" && s.marks?.times.length && [",", ".", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"].includes(e.key)) {
    const n = s.marks.times.length, beat = s.marks.kind === "beat";
    if (e.key === "," || e.key === ".") cell.chosen = clamp(cell.chosen + (e.key === "." ? 1 : -1), 0, n - 1);
    else {
      const now = movesOf(cell.side, cell.lane.name)[cell.chosen] || [s.marks.times[cell.chosen], 0], step = (beat ? 0.01 : 0.1) * (e.shiftKey ? 5 : 1);
      const dt = {ArrowLeft: -step, ArrowRight: step}[e.key] || 0, dy = beat ? 0 : {ArrowUp: 0.02, ArrowDown: -0.02}[e.key] || 0;
      move(cell, cell.chosen, now[0] + dt, now[1] + dy);
      listAdvice();
    }
    const t = placed(s, movesOf(cell.side, cell.lane.name))[cell.chosen];
    if (t < view.from || t > view.to) look(t - (view.to - view.from) / 2, t + (view.to - view.from) / 2);
    tell(`${beat ? "Heartbeat" : "Skin response"} ${cell.chosen + 1} of ${n} at ${time(t)}`);
    redraw();
  } else done = false;
  if (done) { e.preventDefault(); e.stopPropagation(); }
}

function look(from, to) {
  const all = about.longest, wide = clamp(to - from, Math.min(all, Math.max(0.5, all / 2000)), all);
  from = clamp(from + (to - from - wide) / 2, 0, all - wide);
  view = {from, to: from + wide};
  redraw();
}
function zoom(by, around = clamp(cursor, view.from, view.to)) { look(around - (around - view.from) * by, around + (view.to - around) * by); }
function pan(share) { const d = share * (view.to - view.from); if (view.from + d < 0) look(0, view.to - view.from); else if (view.to + d > about.longest) look(about.longest - (view.to - view.from), about.longest); else look(view.from + d, view.to + d); }
function seek(t) {
  cursor = clamp(t, 0, about.longest);
  if (cursor < view.from || cursor > view.to) { const half = (view.to - view.from) / 2; look(cursor - half, cursor + half); }
  if (playing) { stop(); play(); }
  redraw();
}

// --- playing ------------------------------------------------------------------------------------------------------
const audio = new Audio();
function soundOf(side) { return [...pair[side].streams.values()].find((s) => s.url); }
function play() {
  if (!pair) return;
  if (cursor >= about.longest - 0.01) cursor = 0;
  playing = true;
  const speed = about.longest > 180 ? about.longest / 60 : 1, heard = speed === 1 && soundOf(hear), began = {wall: performance.now(), t: cursor};
  if (heard) {
    if (audio.src !== heard.url) audio.src = heard.url;
    audio.currentTime = clamp(cursor - heard.offset, 0, heard.seconds);
    audio.play().catch(() => {});
  }
  $("play").setAttribute("aria-pressed", "true");
  $("play-icon").textContent = "❚❚";
  $("play-word").textContent = "Pause";
  const step = () => {
    if (!playing) return;
    const sounding = heard && !audio.paused && !audio.ended && audio.currentTime > 0;
    cursor = sounding ? audio.currentTime + heard.offset : began.t + speed * (performance.now() - began.wall) / 1000;
    if (cursor >= about.longest) { cursor = about.longest; stop(); redraw(); return; }
    if (cursor > view.to) { const wide = view.to - view.from; look(cursor, cursor + wide); }
    redraw();
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}
function stop() {
  playing = false;
  audio.pause();
  $("play").setAttribute("aria-pressed", "false");
  $("play-icon").textContent = "▶";
  $("play-word").textContent = "Play";
}

// --- the stage: a face, a wrist, pictures and what is said -----------------------------------------------------------
const find = (r, p) => [...r.streams.values()].find((s) => s.kind === "signal" && s.channels.some((c) => p.test(c)));
function buildStage() {
  actors = SIDES.map((side) => {
    const r = pair[side];
    return {side, face: find(r, /^AU\d+/i), gaze: find(r, /gaze_angle/), head: find(r, /pose_R|^pitch$|^yaw$/),
      motion: [...r.streams.values()].find((s) => s.kind === "signal" && s.channels.length === 3 && /acc/.test(s.name.toLowerCase()) && ["g", "m/s2", "m/s^2", "m/s²"].includes(s.unit)),
      said: [...r.streams.values()].find((s) => s.kind === "text"), video: [...r.streams.values()].find((s) => s.pictures)};
  });
  const wanted = actors.some((a) => a.face || a.said || a.video || a.motion);
  $("overview").className = !wanted ? "plain" : $("vitals").hidden ? "still" : "";
  for (const side of SIDES) { $(`actor-${side}`).hidden = !wanted; $(`actor-${side}`).replaceChildren(); }
  if (!wanted) { actors = []; return; }
  for (const a of actors) {
    const canvas = el("canvas", {role: "img", "aria-label": `Animation of ${LETTER[a.side]}`});
    a.canvas = canvas;
    a.caption = el("p", {class: a.said ? "said" : ""});
    a.parts = [a.video && "video", a.face && "face", a.motion && "motion"].filter(Boolean);
    $(`actor-${a.side}`).append(canvas, a.caption);
    if (!a.said) a.caption.append(el("span", {class: "soft", text: a.motion || a.face ? "Play to see it move" : ""}));
  }
}
function act(a) {
  const room = a.canvas.parentElement.clientWidth - 14, n = Math.max(1, a.parts.length), size = Math.floor(clamp(room / n, 40, 152)), w = n * size;
  const ratio = window.devicePixelRatio || 1;
  if (a.canvas.width !== Math.round(w * ratio)) {
    a.canvas.width = Math.round(w * ratio); a.canvas.height = Math.round(size * ratio);
    a.canvas.style.width = `${w}px`; a.canvas.style.height = `${size}px`;
  }
  const c = a.canvas.getContext("2d");
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  c.clearRect(0, 0, w, size);
  a.parts.forEach((part, i) => {
    c.save();
    c.translate(i * size + size / 2, size / 2);
    ({video: picture, face: drawFace, motion: drawMotion})[part](c, size * 0.42, a);
    c.restore();
  });
  if (a.said) {
    const i = a.said.times.findIndex((t, k) => cursor >= t && cursor <= a.said.ends[k]);
    const text = i >= 0 ? `“${a.said.text[i]}”` : cursor === 0 && !playing ? "Play to hear and see it" : "";
    if (a.caption.textContent !== text) a.caption.textContent = text;
  }
}
function picture(c, r, a) {
  const i = clamp(Math.floor((cursor - a.video.offset) * a.video.rate), 0, a.video.pictures.length - 1), p = a.video.pictures[i];
  if (!p.complete || !p.width) return;
  const k = 2.2 * r / Math.max(p.width, p.height);
  c.drawImage(p, -p.width * k / 2, -p.height * k / 2, p.width * k, p.height * k);
}
function smooth(s, k, t, over) {
  let sum = 0, n = 0;
  const n0 = Math.max(0, Math.round((t - over - s.offset) * s.rate)), n1 = Math.min(s.values.length / s.channels.length - 1, Math.round((t + over - s.offset) * s.rate));
  for (let i = n0; i <= n1; i++) { const v = s.values[i * s.channels.length + k]; if (v === v) { sum += v; n++; } }
  return n ? sum / n : 0;
}
function drawFace(c, r, a) {
  const au = (n) => { const k = a.face.channels.findIndex((x) => new RegExp(`^AU0*${n}(_|$)`, "i").test(x)); return k < 0 ? 0 : clamp(smooth(a.face, k, cursor, 0.03) / 5, 0, 1); };
  const of = (s, p) => { const k = s ? s.channels.findIndex((x) => p.test(x)) : -1; return k < 0 ? 0 : smooth(s, k, cursor, 0.03); };
  const gx = clamp(of(a.gaze, /angle_x/), -0.7, 0.7), gy = clamp(of(a.gaze, /angle_y/), -0.7, 0.7);
  const pitch = clamp(of(a.head, /Rx|pitch/), -0.7, 0.7), yaw = clamp(of(a.head, /Ry|yaw/), -0.7, 0.7), roll = clamp(of(a.head, /Rz|roll/), -0.7, 0.7);
  const edge = a.side === "left" ? ink.a : ink.b;
  c.rotate(roll);
  c.lineCap = c.lineJoin = "round";
  c.fillStyle = ink.band; c.strokeStyle = edge; c.lineWidth = 2.5;
  c.beginPath(); c.ellipse(0, 0, 0.82 * r, r * (1 + 0.05 * au(26)), 0, 0, 7); c.fill(); c.stroke();
  c.beginPath(); c.arc(-0.82 * r - 0.02 * r - yaw * 0.1 * r, 0, 0.1 * r, 0, 7); c.moveTo(0.84 * r + 0.1 * r - yaw * 0.1 * r, 0); c.arc(0.84 * r - yaw * 0.1 * r, 0, 0.1 * r, 0, 7); c.stroke();
  c.translate(yaw * 0.45 * r, pitch * 0.4 * r);
  c.strokeStyle = ink.ink;
  for (const s of [-1, 1]) {
    const x = s * 0.34 * r, y = -0.14 * r, blink = clamp(au(45) * 2.2, 0, 1);
    const open = 0.12 * r * (1 + 0.5 * au(5) - 0.45 * au(7) - 0.3 * au(6)) * (1 - blink);
    c.fillStyle = ink.card; c.lineWidth = 1.8;
    c.beginPath(); c.ellipse(x, y, 0.17 * r, Math.max(0.4, open), 0, 0, 7); c.fill(); c.stroke();
    if (open > 2) {
      c.save(); c.clip();
      c.fillStyle = ink.ink; c.beginPath(); c.arc(x + gx / 0.7 * 0.1 * r, y + gy / 0.7 * 0.07 * r, 0.075 * r, 0, 7); c.fill();
      c.restore();
    }
    const inner = y - 0.26 * r - 0.16 * r * au(1) + 0.14 * r * au(4), outer = y - 0.26 * r - 0.14 * r * au(2) + 0.08 * r * au(4);
    c.lineWidth = 3.2;
    c.beginPath(); c.moveTo(x - s * (0.16 + 0.03 * au(4)) * r, inner); c.quadraticCurveTo(x, Math.min(inner, outer) - 0.05 * r, x + s * 0.2 * r, outer); c.stroke();
    if (au(6) > 0.08) { c.globalAlpha = clamp(au(6) * 1.6, 0, 0.8); c.lineWidth = 1.6; c.beginPath(); c.arc(x + s * 0.06 * r, y + 0.36 * r, 0.14 * r, 1.15 * Math.PI, 1.85 * Math.PI); c.stroke(); c.globalAlpha = 1; }
    if (au(14) > 0.1) { c.lineWidth = 1.6; c.beginPath(); c.arc(s * 0.5 * r, 0.44 * r, 0.07 * r, s > 0 ? -0.6 : Math.PI - 0.6, s > 0 ? 0.8 : Math.PI + 0.8); c.stroke(); }
  }
  c.lineWidth = 1.8;
  c.beginPath(); c.moveTo(0, -0.08 * r); c.quadraticCurveTo(0.1 * r, 0.1 * r, 0.07 * r, 0.17 * r - 0.04 * r * au(9)); c.lineTo(-0.06 * r, 0.18 * r - 0.04 * r * au(9)); c.stroke();
  if (au(9) > 0.1) for (const d of [-0.06, 0.02]) { c.beginPath(); c.moveTo(-0.08 * r, d * r); c.lineTo(0.06 * r, d * r); c.stroke(); }
  const wide = 0.3 * r * (1 + 0.3 * au(20) + 0.25 * au(12) - 0.2 * au(23)), y = 0.5 * r - 0.05 * r * au(17), corner = y - 0.2 * r * au(12) + 0.16 * r * au(15);
  const gap = r * (0.02 + 0.13 * au(25) + 0.26 * au(26)), up = y - 0.03 * r - 0.1 * r * au(10) - 0.2 * gap, low = y + 0.05 * r + gap + 0.05 * r * au(12);
  c.beginPath(); c.moveTo(-wide, corner); c.quadraticCurveTo(0, up, wide, corner); c.quadraticCurveTo(0, 2 * low - corner, -wide, corner); c.closePath();
  c.fillStyle = gap > 0.05 * r ? ink.ink : ink.band; c.fill(); c.lineWidth = 2.6; c.stroke();
}
// a watch that lies as gravity says, and trembles as the wrist does
function drawMotion(c, r, a) {
  const s = a.motion, g = s.unit === "g" ? 1 : 9.81, v = [0, 1, 2].map((k) => smooth(s, k, cursor, 0.15) / g), now = [0, 1, 2].map((k) => (value(s, cursor, k) || 0) / g);
  const size = Math.hypot(...v) || 1, [x, y, z] = v.map((q) => q / size), shake = clamp(Math.hypot(...now.map((q, k) => q - v[k])), 0, 1.5);
  const edge = a.side === "left" ? ink.a : ink.b, roll = Math.atan2(x, Math.hypot(y, z)), tip = Math.atan2(y, Math.abs(z) < 1e-3 ? 1e-3 : Math.abs(z));
  c.lineCap = "round";
  c.translate((now[0] - v[0]) * 0.25 * r, (now[1] - v[1]) * 0.25 * r);
  c.rotate(roll);
  const flat = Math.max(0.25, Math.cos(tip));
  c.fillStyle = ink.band; c.strokeStyle = edge; c.lineWidth = 2.5;
  for (const d of [-1, 1]) { c.beginPath(); c.roundRect(-0.3 * r, d > 0 ? 0.45 * r * flat : -0.95 * r * flat, 0.6 * r, 0.5 * r * flat, 0.06 * r); c.fill(); c.stroke(); }
  c.beginPath(); c.roundRect(-0.5 * r, -0.55 * r * flat, r, 1.1 * r * flat, 0.18 * r); c.fillStyle = ink.card; c.fill(); c.stroke();
  c.strokeStyle = ink.soft; c.lineWidth = 1.5;
  c.beginPath(); c.moveTo(0, 0); c.lineTo(0, -0.32 * r * flat); c.moveTo(0, 0); c.lineTo(0.2 * r, 0.1 * r * flat); c.stroke();
  c.rotate(-roll);
  c.strokeStyle = edge; c.globalAlpha = clamp(shake * 3, 0, 1);
  for (const d of [-1, 1]) for (const k of [0.82, 0.98]) { c.beginPath(); c.arc(0, 0, k * r, d > 0 ? -0.45 : Math.PI - 0.45, d > 0 ? 0.45 : Math.PI + 0.45); c.stroke(); }
  c.globalAlpha = 1;
}

// --- the form -----------------------------------------------------------------------------------------------------
function radios(name, entries, chosen, change, label) {
  const of = el("div", {class: "of"}), set = el("fieldset", {class: "seg"}, el("legend", {text: label}), of);
  for (const [v, word, aria] of entries) {
    const input = el("input", {type: "radio", name, value: String(v), ...(aria ? {"aria-label": aria} : {})});
    input.checked = chosen === v;
    input.addEventListener("change", () => change(v));
    of.append(el("label", {}, input, el("span", {text: word})));
  }
  return set;
}

function fill() {
  for (const input of document.querySelectorAll("input[name=choice]")) input.checked = input.value === draft.choice;
  for (const input of document.querySelectorAll("input[name=sure]")) input.checked = +input.value === draft.confidence;
  $("comment").value = draft.comment;
  const words = [["left", "A"], ["right", "B"], ["tie", "="], ["both_bad", "✕"]], aria = {left: "A", right: "B", tie: "equal", both_bad: "both bad"};
  $("aspects").replaceChildren(...about.aspects.map((k) => {
    const set = radios(`aspect-${k}`, words.map(([v, w]) => [v, w, aria[v]]), draft.aspects[k], (v) => { draft.aspects[k] = v; save(); }, ASPECTS[k] || k);
    set.classList.add("aspect");
    return set;
  }));
  const cards = SIDES.map((side) => {
    const note = el("input", {type: "text", maxlength: "500", id: `note-${side}`, placeholder: "e.g. slower breathing", value: ""});
    note.value = draft.notes[side] || "";
    note.addEventListener("input", () => { draft.notes[side] = note.value; save(); });
    return el("div", {class: `say ${side === "left" ? "a" : "b"}`},
      radios(`rating-${side}`, [1, 2, 3, 4, 5].map((v) => [v, String(v), `${v} of 5`]), draft.ratings[side], (v) => { draft.ratings[side] = v; save(); }, `${LETTER[side]} by itself`),
      el("label", {class: "field", for: `note-${side}`, text: `What should change in ${LETTER[side]}?`}), note,
      el("ul", {id: `told-${side}`}),
      el("button", {type: "button", class: "recognise", text: "I recognise someone", onclick: () => recognise(side)}));
  });
  $("advice").replaceChildren(...cards);
  listAdvice();
  ready4next();
}

function listAdvice() {
  for (const side of SIDES) {
    const items = draft.regions.filter((r) => r.side === side).map((r) => el("li", {},
      el("span", {text: `${human(r.stream)}: wrong from ${time(r.start)} to ${time(r.end)}`}),
      el("button", {type: "button", text: "Remove", "aria-label": `Remove the mark in ${human(r.stream)} of ${LETTER[side]}`, onclick: () => { draft.regions.splice(draft.regions.indexOf(r), 1); save(); listAdvice(); redraw(); }})));
    for (const [name, moves] of Object.entries(draft.moves[side])) {
      const n = Object.keys(moves).length;
      items.push(el("li", {class: "moved"}, el("span", {text: n ? `${human(name)}: ${n} moved` : `${human(name)}: as it was`}),
        el("button", {type: "button", text: "Put back", "aria-label": `Put the marks of ${human(name)} of ${LETTER[side]} back`, onclick: () => {
          if (pair.advice.some((d) => d.kind === "correction" && d.side === side && d.stream === name)) draft.moves[side][name] = {};
          else delete draft.moves[side][name];
          save(); listAdvice(); redraw(); }})));
    }
    const before = pair.advice.filter((d) => d.side === side && d.kind !== "recognise").length;
    if (before) items.push(el("li", {}, el("span", {class: "soft", text: `${before} said before`})));
    $(`told-${side}`).replaceChildren(...items);
  }
}

function choose(choice) {
  draft.choice = choice;
  for (const input of document.querySelectorAll("input[name=choice]")) input.checked = input.value === choice;
  save();
  ready4next();
}
function sure(n) {
  draft.confidence = n;
  for (const input of document.querySelectorAll("input[name=sure]")) input.checked = +input.value === n;
  save();
}
function ready4next() { $("next").disabled = !draft.choice; }

function setMode(to) {
  mode = to;
  for (const input of document.querySelectorAll("input[name=mode]")) input.checked = input.value === to;
  document.body.classList.toggle("mark", to === "mark");
  document.body.classList.toggle("correct", to === "correct");
  $("hint").textContent = HINTS[to];
  redraw();
}

async function guarded(work) {
  if (busy) return;
  busy = true;
  $("rate").setAttribute("aria-busy", "true");
  $("next").disabled = true;
  try { await work(); banner("refused", ""); } catch (error) { await failed(error); } finally {
    busy = false;
    $("rate").setAttribute("aria-busy", "false");
    if (draft) ready4next();
    if (stale) without();
  }
}
async function failed(error) {
  if (error instanceof Problem && error.status === 401) { seatless(error.message); return; }
  tell(error.message);
  if (error instanceof Problem && [403, 409].includes(error.status)) {
    banner("refused", `${error.message}.`);
    try { state = await again(() => backend.start()); await show(); } catch { /* the banner says what happened */ }
  }
}
// what comes next, without those in whom somebody was recognised; once nothing else is in flight
function without() {
  stale = busy;
  guarded(async () => {
    state = await again(() => backend.start());
    await show();
    tell("Hidden from everybody. Thank you.");
  });
}

function pending() {
  const out = [], add = (key, side, kind, body) => out.push({pair: pair.pair, side, kind, body, nonce: noncefor(key)});
  for (const r of draft.regions) out.push({pair: pair.pair, side: r.side, kind: "region", body: {stream: r.stream, start: r.start, end: r.end}, nonce: r.nonce});
  for (const side of SIDES) {
    if (draft.ratings[side]) add(`rating ${side} ${draft.ratings[side]}`, side, "rating", {value: draft.ratings[side]});
    if ((draft.notes[side] || "").trim()) add(`note ${side} ${draft.notes[side]}`, side, "instruction", {text: draft.notes[side].trim()});
    for (const [name, moves] of Object.entries(draft.moves[side])) {
      const list = Object.entries(moves).map(([i, [to, more]]) => [+i, to, more]), kind = pair[side].streams.get(name).marks.kind;
      add(`moves ${side} ${name} ${JSON.stringify(list)}`, side, "correction", {stream: name, mark: kind, moves: list});
    }
  }
  save();
  return out;
}

function submit() {
  if (!pair) return;
  if (!draft.choice) { tell("First choose: A, B, tie or both bad"); document.querySelector("input[name=choice]").focus(); return; }
  guarded(async () => {
    for (const form of pending()) await again(() => backend.advise(form));
    const form = {pair: pair.pair, nonce: pair.nonce, choice: draft.choice, confidence: draft.confidence, aspects: draft.aspects,
      comment: draft.comment, seconds: Math.min(1e6, Math.round((performance.now() - shownAt) / 100) / 10)};
    // said once and for all: whatever is tried again says exactly this
    const next = await again(() => backend.answer(form));
    drop(pair);
    state = next;
    await show();
  });
}

function undo() {
  if (!state || state.last === null) return;
  guarded(async () => {
    const next = await again(() => backend.undo(state));
    state = next;
    await show(next.undone);
    tell("Taken back: change it, or store it again");
  });
}

function recognise(side) {
  // of the pair that is shown now: an answer in flight may bring the next one behind the question
  const dialog = $("recognise"), form = {pair: pair.pair, side, kind: "recognise", body: {}, nonce: noncefor(`recognise ${side}`)};
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue !== "yes") return;
    clearTimeout(ahead);
    keep([...kept().filter((f) => f.nonce !== form.nonce), form]);
    deliver().then(() => { drop(form); without(); }, async (error) => {
      await failed(error);
      banner("recognised", "Whom you recognised is kept here, and sent when you open this page again; tell whoever runs the study.");
    });
  };
  dialog.showModal();
}

function seatless(why) {
  message("This link opens no seat.", why ? `${why[0].toUpperCase()}${why.slice(1)}.` : "", "Ask whoever runs the study for a new link. Answers given before are kept.");
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], {type: "application/jsonl"})), a = el("a", {href: url, download: name});
  document.body.append(a);
  a.click();
  a.remove();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// --- beginning -----------------------------------------------------------------------------------------------------
function wire() {
  $("answer").addEventListener("submit", (e) => { e.preventDefault(); submit(); });
  for (const input of document.querySelectorAll("input[name=choice]")) input.addEventListener("change", () => choose(input.value));
  for (const input of document.querySelectorAll("input[name=sure]")) input.addEventListener("change", () => sure(+input.value));
  for (const input of document.querySelectorAll("input[name=mode]")) input.addEventListener("change", () => setMode(input.value));
  for (const input of document.querySelectorAll("input[name=hear]")) input.addEventListener("change", () => listenTo(input.value));
  $("comment").addEventListener("input", () => { draft.comment = $("comment").value; save(); });
  $("undo").addEventListener("click", undo);
  $("play").addEventListener("click", () => (playing ? stop() : play()));
  $("in").addEventListener("click", () => zoom(0.5));
  $("out").addEventListener("click", () => zoom(2));
  $("fit").addEventListener("click", () => look(0, about.longest));
  $("help-open").addEventListener("click", () => $("help").showModal());
  const name = () => `answers-${about.rater}.jsonl`;
  $("mine").addEventListener("click", () => guarded(async () => download(name(), await backend.mine())));
  $("file").addEventListener("click", async () => download(name(), await backend.mine()));
  $("load").addEventListener("click", () => $("picker").click());
  $("picker").addEventListener("change", () => guarded(async () => {
    const [file] = $("picker").files;
    if (!file) return;
    try { state = await backend.take(await file.text()); } catch (error) { throw error instanceof Problem ? error : new Problem(400, "This file holds no saved answers."); }
    $("picker").value = "";
    await show();
    tell("Loaded");
  }));
  document.addEventListener("keydown", keys);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours(); redraw(); });
  new ResizeObserver(redraw).observe(document.body);
  window.addEventListener("hashchange", () => location.reload());
}
function listenTo(side) {
  hear = side;
  document.querySelector(`input[name=hear][value=${side}]`).checked = true;
  if (playing) { stop(); play(); }
}

function keys(e) {
  if (e.ctrlKey || e.metaKey || e.altKey || document.querySelector("dialog[open]")) return;
  const t = e.target, typing = t.matches("textarea, input[type=text]");
  if (typing) { if (e.key === "Escape") t.blur(); return; }
  const button = t.matches("button, a, summary"), radio = t.matches("input[type=radio]"), key = e.key.length === 1 ? e.key.toLowerCase() : e.key;
  if (key === "?") { e.preventDefault(); $("help").showModal(); return; }
  if (key === "u") { e.preventDefault(); undo(); return; }
  if (!pair || busy || $("rate").hidden) return; // while an answer is on its way, what is shown is no longer what is judged
  const choices = {a: "left", b: "right", t: "tie", n: "both_bad"};
  let done = true;
  if (choices[key]) {
    choose(choices[key]);
    if (button) t.blur(); // after a click on Play, Enter means the answer
  }
  else if (/^[1-5]$/.test(key)) sure(+key);
  else if (key === "Enter" && !button) submit();
  else if (key === " " && !button && !radio) playing ? stop() : play();
  else if (key === "s") { if (!$("hear").hidden) listenTo(hear === "left" ? "right" : "left"); }
  else if (key === "m") { const order = ["look", "mark", "correct"].filter((m) => m !== "correct" || !$("mode-correct").hidden); setMode(order[(order.indexOf(mode) + 1) % order.length]); }
  else if (key === "c") $("comment").focus();
  else if (key === "+" || key === "=") zoom(0.5);
  else if (key === "-" || key === "−") zoom(2);
  else if (key === "0") look(0, about.longest);
  else if ((key === "ArrowLeft" || key === "ArrowRight") && !radio) {
    const d = key === "ArrowLeft" ? -1 : 1;
    if (e.shiftKey) pan(0.2 * d); else seek(cursor + d * (view.to - view.from) / 60);
  } else done = false;
  if (done) e.preventDefault();
}

async function begin() {
  const data = JSON.parse($("data").textContent);
  backend = data ? offline(data) : online();
  $("file").hidden = $("load").hidden = !data;
  $("mine").hidden = Boolean(data);
  wire();
  try {
    state = await again(() => backend.start());
  } catch (error) {
    $("undo").hidden = $("mine").hidden = true;
    seatless(error.message);
    return;
  }
  about = {...state, longest: 60};
  delete about.recordings;
  $("study").textContent = [about.title, about.rater].filter(Boolean).join(" · ");
  $("sources").replaceChildren(...Object.entries(about.ranges).map(([k, r]) => el("li", {text: `${k}: ${r.low}–${r.high} ${r.unit} (${r.source})`})));
  document.title = `${about.title || "Mien"} – studio`;
  await guarded(async () => {
    if (await deliver()) state = await again(() => backend.start());
    await show();
  });
}
begin();
})();
