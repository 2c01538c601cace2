"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const main = byId("main");

  // Methods that are shown, and what the curves are read against.
  const boxes = [...document.querySelectorAll("#legend input")];
  const showArms = () => { main.dataset.off = boxes.filter((box) => !box.checked).map((box) => box.dataset.arm).join(" "); };
  for (const box of boxes) box.addEventListener("change", showArms);
  showArms();
  const axes = byId("axes");
  if (axes) {
    const charts = [...document.querySelectorAll("[data-axis]")];
    const choose = () => { for (const chart of charts) chart.hidden = chart.dataset.axis !== axes.elements.axis.value; };
    axes.addEventListener("input", choose);
    axes.addEventListener("submit", (event) => event.preventDefault());
    axes.hidden = false;
    const given = new URLSearchParams(location.hash.slice(1)).get("axis");
    if (given) axes.elements.axis.value = given;
    choose();
  }
})();
