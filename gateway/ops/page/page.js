"use strict";
// Replaces the parts of the page that have changed, when the gateway sends an event and every ten seconds.
const REFRESH = 10000, SHORTEST = 1000, TIMEOUT = 8000;
const root = document.body.dataset.root;
const sources = new Map();  // the HTML of each part, as the gateway sent it
let token = "";  // in memory only
let shownEvent = 0, lastEvent = 0, answered = Date.now(), started = 0, timer = null, busy = false, connection = null;

const headers = extra => token ? { Authorization: "Bearer " + token, ...extra } : extra;
const format = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const formatDay = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const local = time => Math.abs(Date.now() - time) < 86400000 ? format.format(time) : formatDay.format(time);

function localize(part) {
  for (const each of part.querySelectorAll("time")) {
    const time = new Date(each.dateTime);
    each.textContent = local(time);
    each.title = time.toISOString();
  }
}

function identify(part) {  // a selector of the focused element, which survives the replacement of its part
  const focused = document.activeElement;
  if (!part.contains(focused)) return null;
  if (focused.id) return "#" + CSS.escape(focused.id);
  const href = focused.getAttribute("href");
  if (href !== null) return `a[href="${CSS.escape(href)}"]`;
  return focused.tagName === "SUMMARY" ? `#${CSS.escape(focused.parentElement.id)} > summary` : null;
}

function replace(part, fresh) {
  const selector = identify(part);
  for (const each of part.querySelectorAll("details[open]")) {
    const same = fresh.querySelector("#" + CSS.escape(each.id));
    if (same) same.open = true;
  }
  part.replaceWith(fresh);
  if (selector) fresh.querySelector(selector)?.focus({ preventScroll: true });
}

function show(page) {
  const main = document.querySelector("main"), parts = [...page.querySelectorAll("header, main > section")];
  const wanted = new Set(parts.map(part => part.id));
  for (const part of main.querySelectorAll(":scope > section")) if (!wanted.has(part.id)) { part.remove(); sources.delete(part.id); }
  let previous = null;
  for (const fresh of parts) {
    const part = document.getElementById(fresh.id), source = fresh.outerHTML;
    let current = part;
    if (sources.get(fresh.id) !== source) {
      sources.set(fresh.id, source);
      current = document.adoptNode(fresh);
      localize(current);
      if (part) replace(part, current);
    }
    if (current.tagName === "HEADER") continue;
    if (previous ? previous.nextElementSibling !== current : main.firstElementChild !== current) {
      const selector = identify(current);
      previous ? previous.after(current) : main.prepend(current);
      if (selector) current.querySelector(selector)?.focus({ preventScroll: true });
    }
    previous = current;
  }
  document.title = page.title;
  shownEvent = Number(page.body.dataset.event);
}

function showAnswered(ok) {
  const stale = document.getElementById("stale");
  if (ok) {
    answered = Date.now();
  } else if (stale.hidden) {
    stale.textContent = `The gateway has not answered since ${local(answered)}. This page shows the last known state.`;
    document.title = "No answer – " + document.title;
  }
  stale.hidden = ok;
  document.body.classList.toggle("stale", !ok);
}

async function refresh() {
  if (busy) return;
  busy = true;
  started = Date.now();
  const sent = token;
  try {
    const response = await fetch(location.pathname + location.search, { headers: headers({}), signal: AbortSignal.timeout(TIMEOUT) });
    const text = await response.text();
    if (!response.ok && response.status !== 404) throw new Error(text);
    showAnswered(true);
    show(new DOMParser().parseFromString(text, "text/html"));
    if (sent && sent === token && document.getElementById("refused")) {
      token = "";
      document.getElementById("refused").textContent = "The gateway does not accept this token.";
    }
    if (document.getElementById("login")) disconnect(); else stream();
  } catch {
    showAnswered(false);
  }
  busy = false;
  schedule(lastEvent > shownEvent || token && token !== sent ? SHORTEST : REFRESH - Date.now() % REFRESH);
}

function schedule(delay) {  // at most once a second
  const due = Math.max(Date.now() + delay, started + SHORTEST);
  if (timer && timer.due <= due) return;
  if (timer) clearTimeout(timer.id);
  timer = { due, id: setTimeout(() => { timer = null; refresh(); }, due - Date.now()) };
}

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

async function stream() {  // fetch can send the token, and EventSource cannot
  if (connection || document.hidden) return;
  const { signal } = connection = new AbortController();
  while (!signal.aborted) {
    try {
      const response = await fetch(root + "api/v1/events", { signal, headers: headers({ "Last-Event-ID": String(lastEvent) }) });
      if (response.ok) await read(response.body.pipeThrough(new TextDecoderStream()).getReader());
      else await sleep(REFRESH);  // all streams are in use: the page polls
    } catch { /* the gateway has stopped, or the page is hidden */ }
    if (!signal.aborted) schedule(0);
    await sleep(SHORTEST);
  }
}

function disconnect() {  // a browser opens only a few connections to one server, so a hidden page releases its connection
  connection?.abort();
  connection = null;
}

async function read(reader) {
  for (let text = "";;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const id = /^id: (\d+)$/m.exec(block);
      if (id) lastEvent = Number(id[1]);
      if (/^data:/m.test(block) || lastEvent > shownEvent) schedule(100);
    }
  }
}

document.addEventListener("submit", event => {
  event.preventDefault();
  token = document.getElementById("token").value.trim();
  document.getElementById("token").value = "";
  started = 0;
  schedule(0);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { disconnect(); return; }
  schedule(0);
  if (!document.getElementById("login")) stream();
});

for (const part of document.querySelectorAll("header, main > section")) { sources.set(part.id, part.outerHTML); localize(part); }
shownEvent = lastEvent = Number(document.body.dataset.event);
if (!document.getElementById("login")) stream();
schedule(REFRESH - Date.now() % REFRESH);
