// Says when the figures on the operators' page are old, and leads to signing in when the session has ended.
"use strict";
(() => {
  const stale = document.getElementById("stale");
  let seen = Date.now();
  document.addEventListener("htmx:before:response", (event) => {
    const answer = event.detail.ctx.response.raw;
    if (answer.redirected) {
      event.preventDefault();
      location.reload();
    } else if (answer.ok) {
      seen = Date.now();
    } else {
      event.preventDefault(); // an error's page has no place among the figures
    }
  });
  setInterval(() => { stale.hidden = Date.now() - seen < 10000; }, 1000);
})();
