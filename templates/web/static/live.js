// Parts of a page that move by themselves: pushed by the server (hx-sse), asked for while that fails. Says when the
// figures are old, and asks for the whole page when the session has ended, which leads to signing in, or when the rest
// of the page is for another state of things than the part shows.
"use strict";
(() => {
  const EVERY_MS = 4000, OLD_MS = 10000;
  const part = document.querySelector("[data-poll]"), stale = document.getElementById("stale");
  if (!part) return;
  let pushed = false, closed = false, seen = Date.now();
  const again = () => {
    part.removeAttribute("data-poll");
    const page = new URL(part.dataset.page, location.href);
    // What answers a form has another address: to load it anew would send the form again.
    if (page.pathname === location.pathname) location.reload();
    else location.replace(page);
  };
  const isWrittenIn = () => Array.from(document.querySelectorAll("main form input:not([type=hidden])")).some(
    (field) => field.type === "checkbox" ? field.checked !== field.defaultChecked : field.value !== field.defaultValue
  );

  // No stream for a page out of sight: with HTTP/1.1 a browser opens six connections to a server for all its tabs. The
  // extension ends what is open when a tab is left; here ends what opens while it is out of sight.
  part.addEventListener("htmx:sse:after:connection", (event) => {
    pushed = true;
    closed = false;
    if (document.hidden) event.detail.connection.abortController.abort();
  });
  part.addEventListener("htmx:sse:before:connection", (event) => { // also before it tries again
    pushed = false;
    if (document.hidden) event.preventDefault();
  });
  part.addEventListener("htmx:sse:error", (event) => {
    pushed = false;
    if (event.detail.status === 403) again();
  });
  part.addEventListener("htmx:sse:close", () => {
    pushed = false;
    closed = true;
  });
  part.addEventListener("htmx:sse:after:message", () => { seen = Date.now(); });
  part.addEventListener("alive", (event) => {
    seen = Date.now();
    const clock = part.querySelector(".seen");
    if (clock) clock.innerHTML = event.detail.data;
  });
  part.addEventListener("over", again);

  document.addEventListener("htmx:before:response", (event) => {
    const answer = event.detail.ctx.response.raw;
    if (answer.redirected || answer.status === 403) {
      event.preventDefault();
      again();
    } else if (answer.ok) {
      seen = Date.now();
    } else {
      event.preventDefault(); // an error's page has no place among the figures
    }
  });

  // The server marks what moves no more.
  const isWatched = () => !document.hidden && part.dataset.poll && !part.querySelector("[data-over]");
  const ask = () => htmx.ajax("GET", part.dataset.poll, { target: part, swap: "innerMorph" });
  setInterval(() => {
    if (isWatched() && !pushed) ask();
  }, EVERY_MS);
  document.addEventListener("visibilitychange", () => {
    if (!isWatched()) return;
    ask();
    if (closed) htmx.ajax("GET", part.getAttribute("hx-sse:connect"), { source: part });
  });
  setInterval(() => {
    if (document.hidden || !part.dataset.poll) return;
    if (stale) stale.hidden = Date.now() - seen < OLD_MS || part.querySelector("[data-over]") !== null;
    const { state } = part.querySelector("[data-state]")?.dataset ?? {};
    if (state && state !== part.dataset.madeFor && !isWrittenIn()) again();
  }, 1000);
})();
