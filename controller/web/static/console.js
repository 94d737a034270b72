// What pages do beyond HTML, all of it for comfort: every page works without it.
"use strict";

// A link that lets somebody in carries its code behind the #, which no browser sends. It goes into the form, and out of the address.
const linked = document.querySelector("form[data-code-from-address]");
function take() {
  if (location.hash.length < 2) return;
  linked.elements.code.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
  linked.querySelector("button").focus();
}
if (linked) {
  take();
  addEventListener("hashchange", take); // the page was open already
}

// A screen reader tells what comes into a status, not what a page was sent with: so that comes once more.
const said = document.getElementById("said");
if (said?.children.length) {
  setTimeout(() => said.replaceChildren(...[...said.children].map((each) => each.cloneNode(true))), 500);
}

// What is pressed stays where it is until it is let go: a press on what is taken away meanwhile does nothing.
let pressed = null;
addEventListener("pointerdown", (event) => { pressed = event.button === 0 ? event.target : null; }, true);
addEventListener("keydown", (event) => { pressed = event.target; }, true);
for (const name of ["pointerup", "pointercancel", "keyup"]) addEventListener(name, () => { pressed = null; }, true);
addEventListener("blur", () => { pressed = null; }); // the window's own

// A part that somebody is at work in does not change under their hands: it is not asked for, and what was asked before is not put in.
function atWork(part) {
  if (part.contains(pressed)) return true;
  const marked = getSelection(); // to be copied: a command, a fingerprint, what a server said
  if (!marked.isCollapsed && marked.containsNode(part, true)) return true;
  if (part.querySelector("details[open] form, form details[open], :focus:is(input, select, textarea)")) return true;
  const fields = [...part.querySelectorAll("input, textarea")], selects = [...part.querySelectorAll("select")];
  const first = (select) => Math.max(0, [...select.options].findIndex((each) => each.defaultSelected));
  return fields.some((each) => each.value !== each.defaultValue || each.checked !== each.defaultChecked) ||
    selects.some((each) => each.selectedIndex !== first(each));
}
for (const name of ["htmx:beforeRequest", "htmx:beforeSwap"]) {
  document.addEventListener(name, (event) => {
    const part = event.target;
    if (!part.matches("[data-live]") || !atWork(part)) return;
    event.preventDefault();
    // That it is outdated is said above it, which moves it: not from under what is pressed.
    part.classList.add(part.contains(pressed) ? "held" : "outdated");
  });
}

// Once they are done it is fetched; but not while they are about to press something in it.
function lookAgain(event) {
  const on = document.activeElement;
  for (const part of document.querySelectorAll("[data-live]:is(.outdated, .held)")) {
    if (part.contains(pressed)) continue;
    const presses = event.type !== "pointerup" && part.contains(on) && on.matches("a, button");
    if (atWork(part)) part.classList.replace("held", "outdated");
    else if (!presses) fetchAnew(part.id, [part.getAttribute("hx-trigger").split(", ")[0].slice("sse:".length)]);
  }
}
for (const name of ["focusout", "toggle", "pointerup", "pointercancel", "keyup"]) {
  document.addEventListener(name, (event) => setTimeout(lookAgain, 0, event), true);
}
document.addEventListener("selectionchange", lookAgain);
addEventListener("blur", lookAgain);

// Who presses twice asks once: what was just sent is not sent again. Nothing is remembered of where secrets are typed.
let lastSent = { what: "", at: -Infinity };
document.addEventListener("submit", (event) => {
  const form = event.target, by = event.submitter;
  if (form.method !== "post") return;
  const open = [...form.elements].filter((each) => !each.matches("[type=password], [type=file], textarea"));
  const what = JSON.stringify([form.action, by?.name, by?.value, ...open.map((each) => [each.name, each.value, each.checked])]);
  if (what === lastSent.what && performance.now() - lastSent.at < 5000) event.preventDefault();
  else lastSent = { what, at: performance.now() };
});
addEventListener("pageshow", () => { lastSent.at = -Infinity; }); // they have come back to it

// A part that was refused says so above the page, until it was fetched well.
let refused = ""; // its id
document.addEventListener("htmx:afterRequest", (event) => {
  const { requestConfig, failed, successful } = event.detail;
  if (failed) refused = requestConfig.elt.id;
  else if (successful && refused && refused === requestConfig.elt.id) {
    document.getElementById("problems").replaceChildren();
    refused = "";
  }
});

// What somebody has opened stays open, and what they stand on stays theirs, when a part is fetched anew.
const left = new Map(); // by the part's id
const called = (each) => each.id || each.getAttribute("aria-label") || each.title || each.getAttribute("href") || each.textContent.trim();

document.addEventListener("htmx:beforeSwap", (event) => {
  const part = event.target;
  if (!part.matches("[data-live]") || event.defaultPrevented) return;
  const on = document.activeElement;
  left.set(part.id, {
    open: [...part.querySelectorAll("details[id][open]")].map((each) => each.id),
    on: part.contains(on) ? [on.tagName, called(on)] : null,
  });
});
document.addEventListener("htmx:afterSettle", (event) => {
  const part = event.target.closest ? event.target.closest("[data-live]") : null;
  const was = part && left.get(part.id);
  if (!was) return;
  left.delete(part.id);
  for (const id of was.open) {
    const found = document.getElementById(id);
    if (found) found.open = true;
  }
  if (!was.on || part.contains(document.activeElement)) return;
  const again = [...part.querySelectorAll(was.on[0])].find((each) => called(each) === was.on[1]);
  if (again) again.focus({ preventScroll: true });
});

// What others do is told as it happens: each part of the page that listens to a topic ("sse:servers") fetches itself anew.
// A tab that nobody sees listens to nothing: a browser has six connections for one host, and each stream takes one.
const main = document.querySelector("main[data-events]");

// The first news at once; more of it no more often than twice a second, and where answers take long, ten times as long later, but
// three seconds at most: so many open pages of a fleet at work do not keep it from working.
const paces = new Map(); // by the part's id: when it asked, how long that took (null: it is not answered yet), what waits
const inFlight = (pace) => pace.took === null && performance.now() - pace.asked < 30000; // as htmx-config's timeout
document.addEventListener("htmx:beforeRequest", (event) => {
  if (!event.target.matches("[data-live]") || event.defaultPrevented) return;
  paces.set(event.target.id, { asked: performance.now(), took: null, waits: null });
});
// By now the part is another one, and this is an event of what it stands in.
document.addEventListener("htmx:afterRequest", (event) => {
  const id = event.detail.requestConfig.elt.id;
  const pace = paces.get(id);
  if (!pace || pace.took !== null) return;
  pace.took = performance.now() - pace.asked;
  const all = pace.waits;
  pace.waits = null;
  if (all) fetchAnew(id, [...all]);
});
function fetchAnew(id, topics) {
  const pace = paces.get(id);
  // The answer that is under way may be from before this. htmx would queue the request with a part that the answer takes away.
  if (pace && inFlight(pace)) {
    pace.waits = new Set([...(pace.waits || []), ...topics]);
    return;
  }
  const left = pace ? pace.asked + Math.max(500, Math.min(10 * (pace.took || 0), 3000)) - performance.now() : 0;
  if (left > 0) {
    if (pace.waits) topics.forEach((each) => pace.waits.add(each));
    else {
      pace.waits = new Set(topics);
      setTimeout(() => { const all = [...pace.waits]; pace.waits = null; fetchAnew(id, all); }, left);
    }
    return;
  }
  const part = document.getElementById(id);
  if (part) for (const topic of topics) htmx.trigger(part, `sse:${topic}`);
}

let stream = null;
let retry = 0;

// Who looks at a page is told once nothing is heard any more: what it shows may be old. A stream says something every 15 seconds.
const unheard = document.getElementById("unheard");
let alarm = 0; // until that is told
let beat = 0; // until a stream that says nothing is taken for a dead one
function heard() {
  clearTimeout(alarm);
  clearTimeout(beat);
  alarm = 0;
  unheard.hidden = true;
  beat = setTimeout(() => { end(); listen(); }, 40000);
}
function missed() {
  clearTimeout(beat);
  alarm = alarm || setTimeout(() => { unheard.hidden = false; }, 5000);
}
function end() {
  if (stream) stream.close();
  stream = null;
  clearTimeout(alarm);
  clearTimeout(beat);
  alarm = 0;
}

// A stream is refused where the session is over, too: then the page is left for the one at which its user signs in.
async function leaveIfOver() {
  const answer = await fetch("/console/emergency/doors/", { redirect: "manual", headers: { "X-By-Itself": "1" } }).catch(() => null);
  if (answer && answer.type === "opaqueredirect") location.reload();
}

function listen() {
  if (stream || document.hidden) return;
  missed();
  stream = new EventSource(`${main.dataset.events}?after=${main.dataset.after}`);
  stream.onopen = () => { retry = 0; heard(); };
  stream.addEventListener("beat", heard);
  stream.onmessage = (event) => {
    heard();
    main.dataset.after = event.lastEventId;
    for (const part of document.querySelectorAll("[data-live]")) fetchAnew(part.id, event.data.split(" "));
  };
  stream.addEventListener("gone", () => location.reload()); // signed out elsewhere, or the session is over
  stream.onerror = () => {
    missed();
    if (stream && stream.readyState === EventSource.CLOSED) { // refused: there may be too many streams for now
      stream = null;
      retry = Math.min(retry + 1, 6);
      setTimeout(listen, 5000 * retry);
      leaveIfOver();
    }
  };
}

function rest() {
  if (document.hidden) end();
}

if (main) {
  document.addEventListener("visibilitychange", () => (document.hidden ? setTimeout(rest, 3000) : listen()));
  addEventListener("pagehide", end);
  addEventListener("pageshow", () => listen());
}

// Where there is little room, each row of a table stands as a list (console.css): its cells say themselves what they are.
function named(root) {
  for (const table of root.querySelectorAll(".scroll > table")) {
    const heads = table.tHead ? [...table.tHead.rows[0].cells].map((each) => each.textContent) : [];
    for (const row of table.tBodies[0] ? table.tBodies[0].rows : []) {
      [...row.cells].forEach((cell, place) => { if (heads[place] && cell.tagName === "TD") cell.dataset.label = heads[place]; });
    }
    table.classList.add("stacks");
  }
}
named(document);
document.addEventListener("htmx:afterSettle", (event) => named(event.target.parentElement || document));

// How long ago something was. As in controller/web/text.py.
function ago(seconds) {
  for (const [size, unit] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    const number = Math.floor(seconds / size);
    if (number) return `${number} ${unit}${number > 1 ? "s" : ""} ago`;
  }
  return "just now";
}

// That, and how long a door is open still, goes on from what the page was sent with: by this machine's own running clock, whatever its
// date.
const ends = new WeakMap(), begins = new WeakMap();
function count() {
  for (const each of document.querySelectorAll("time[data-age]")) {
    if (!begins.has(each)) begins.set(each, performance.now() - 1000 * each.dataset.age);
    const told = ago((performance.now() - begins.get(each)) / 1000);
    if (each.textContent !== told) each.textContent = told;
  }
  for (const each of document.querySelectorAll("[data-left]")) {
    if (!ends.has(each)) ends.set(each, performance.now() + 1000 * each.dataset.left);
    const left = Math.max(0, Math.round((ends.get(each) - performance.now()) / 1000));
    each.textContent = `${Math.floor(left / 60)} min ${String(left % 60).padStart(2, "0")} s`;
  }
}
if (main) { count(); setInterval(count, 1000); }
