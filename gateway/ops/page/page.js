"use strict";
// Requests the changed parts of the page when the gateway sends an event, and at least every ten seconds.
const REFRESH = 10000, SHORTEST = 1000, TIMEOUT = 8000;
const root = document.body.dataset.root;
let token = "";  // stored only in memory
let version = document.body.dataset.version;  // the version of the page that the browser shows
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
  return part;
}

function find(element) {  // returns a function that finds the element again after its part was replaced
  const part = element.closest("[data-parts] > *"), href = element.getAttribute("href");
  if (!part) return () => null;
  let selector = null;
  if (element.id) selector = "#" + CSS.escape(element.id);
  else if (href !== null) selector = `a[href="${CSS.escape(href)}"]`;
  else if (element.tagName === "SUMMARY") selector = `#${CSS.escape(element.parentElement.id)} > summary`;
  return () => selector && document.getElementById(part.id)?.querySelector(selector);
}

function update(shown, fresh, known) {  // a template represents a part that has not changed
  const wanted = [...fresh.children].map(each => {
    const part = known.get(each.id);
    if (part && "parts" in each.dataset) { update(part, each, known); return part; }
    return part && each.tagName === "TEMPLATE" ? part : localize(document.adoptNode(each));
  });
  const kept = new Set(wanted);
  for (const each of [...shown.children]) if (!kept.has(each)) each.remove();
  let next = shown.firstElementChild;
  for (const each of wanted) {
    if (each === next) next = next.nextElementSibling; else shown.insertBefore(each, next);
  }
}

function show(page) {
  const focused = document.activeElement, again = find(focused);
  const open = [...document.querySelectorAll("details[open]")].map(each => each.id);
  const known = new Map([...document.querySelectorAll("[data-parts] > *")].map(each => [each.id, each]));
  update(document.getElementById("page"), page.getElementById("page"), known);
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  if (document.activeElement !== focused) again()?.focus({ preventScroll: true });
}

function showAnswered(ok) {
  const stale = document.getElementById("stale");
  if (ok) {
    answered = Date.now();
  } else if (stale.hidden) {
    stale.textContent = `The gateway has not responded since ${local(answered)}. This page shows the last known state.`;
    document.title = "No response – " + document.title;
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
    const response = await fetch(`${location.pathname}?since=${version}`, { headers: headers({}), signal: AbortSignal.timeout(TIMEOUT) });
    const text = await response.text();
    if (!response.ok && response.status !== 404) throw new Error(text);
    showAnswered(true);
    const page = new DOMParser().parseFromString(text, "text/html"), state = page.body.dataset;
    if (state.version !== version) show(page);
    version = state.version;
    shownEvent = Number(state.event);
    document.title = page.title;
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

function schedule(delay) {  // requests start at least one second apart
  const due = Math.max(Date.now() + delay, started + SHORTEST);
  if (timer && timer.due <= due) return;
  if (timer) clearTimeout(timer.id);
  timer = { due, id: setTimeout(() => { timer = null; refresh(); }, due - Date.now()) };
}

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

async function stream() {  // uses fetch, because EventSource cannot send the token
  if (connection || document.hidden) return;
  const { signal } = connection = new AbortController();
  while (!signal.aborted) {
    try {
      const response = await fetch(root + "api/v1/events", { signal, headers: headers({ "Last-Event-ID": String(lastEvent) }) });
      if (response.ok) await read(response.body.pipeThrough(new TextDecoderStream()).getReader());
      else await sleep(REFRESH);  // too many clients read events, so the page polls
    } catch { /* the gateway has stopped, or the page is hidden */ }
    if (!signal.aborted) schedule(0);
    await sleep(SHORTEST);
  }
}

function disconnect() {  // a browser limits the connections to one server, so a hidden page closes its connection
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

localize(document);
shownEvent = lastEvent = Number(document.body.dataset.event);
if (!document.getElementById("login")) stream();
schedule(REFRESH - Date.now() % REFRESH);
