"use strict";
(() => {
  const state = document.getElementById("state");
  if (!state || !state.dataset.reload) return;
  const { reload, written, silence, silent } = state.dataset;
  if (Date.now() / 1000 - Number(written) < Number(silence)) {
    setTimeout(() => location.reload(), 1000 * Number(reload));
    return;
  }
  document.getElementById("chip").textContent = "no word";
  state.textContent = silent;
})();
