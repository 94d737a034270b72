// What pages do beyond HTML, all of it for comfort: every page works without it.
"use strict";

// A link that lets somebody in carries its code behind the #, which no browser sends. It goes into the form, and out of the address.
const linked = document.querySelector("form[data-code-from-address]");
if (linked && location.hash.length > 1) {
  linked.elements.code.value = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
  linked.querySelector("button").focus();
}

// A part that somebody is at work in does not change under their hands.
document.addEventListener("htmx:beforeRequest", (event) => {
  const part = event.target;
  if (!part.matches("[data-live]")) return;
  const busy = part.querySelector("input:checked:not([data-default]), details[open] form, :focus:is(input, select, textarea)");
  if (busy) {
    event.preventDefault();
    part.classList.add("outdated");
  }
});

// Signed out elsewhere, or the session is over.
document.addEventListener("htmx:sseClose", (event) => {
  if (event.detail.type === "message") location.reload();
});

// One box for all of a table's.
document.addEventListener("change", (event) => {
  const all = event.target;
  if (!all.matches("input[data-all]")) return;
  for (const box of all.form ? all.form.elements : []) {
    if (box.type === "checkbox" && box.name === all.dataset.all) box.checked = all.checked;
  }
});
