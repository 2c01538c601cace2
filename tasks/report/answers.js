"use strict";
(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const names = [...form.elements].map((element) => element.name).filter(Boolean);
  const ofProblem = names.filter((name) => !["search", "policy", "outcome"].includes(name));
  const problems = [...document.querySelectorAll(".problem")];
  const shown = document.getElementById("shown");
  const more = document.getElementById("more");
  const first = Number(form.dataset.first);
  let all = false;
  const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

  function filterProblem(problem, want) {
    const says = (element) => element.textContent.toLowerCase().includes(want.search);
    const asked = says(problem.querySelector(".question")) || says(problem.querySelector(".gold"));
    let answers = 0;
    for (const column of problem.querySelectorAll(".column")) {
      const right = !want.policy || column.dataset.policy === want.policy;
      let here = 0;
      for (const answer of column.querySelectorAll(".answer")) {
        const fits = right && (!want.outcome || answer.dataset.outcome === want.outcome) && (asked || says(answer.querySelector("pre")));
        answer.hidden = !fits;
        if (fits) here += 1;
      }
      column.hidden = !right || here === 0;
      answers += here;
    }
    return ofProblem.every((name) => !want[name] || problem.dataset[name] === want[name]) ? answers : 0;
  }

  function apply() {
    const want = Object.fromEntries(new FormData(form));
    want.search = want.search.trim().toLowerCase();
    const narrowed = Object.values(want).some(Boolean);
    let found = 0;
    let answers = 0;
    let hidden = 0;
    for (const problem of problems) {
      const fitting = filterProblem(problem, want);
      if (fitting) {
        found += 1;
        answers += fitting;
      }
      const folded = !all && !narrowed && found > first;
      if (fitting && folded) hidden += 1;
      problem.hidden = !fitting || folded;
    }
    more.hidden = hidden === 0;
    more.textContent = `Show ${plural(hidden, "more problem")}`;
    shown.textContent = narrowed ? (found ? `${plural(answers, "kind")} of answer in ${plural(found, "problem")}` : "No answer fits. Clear the filter to see all.") : "";
    const kept = new URLSearchParams(Object.entries(want).filter(([, value]) => value)).toString();
    if (narrowed || names.some((name) => location.hash.includes(`${name}=`))) history.replaceState(null, "", kept ? `#${kept}` : location.pathname + location.search);
  }

  function fromAddress() {
    if (!location.hash.includes("=")) return;
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of names) form.elements[name].value = given.get(name) ?? "";
  }

  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  more.addEventListener("click", () => {
    all = true;
    const next = problems.find((problem) => problem.hidden);
    apply();
    next.querySelector(".question").setAttribute("tabindex", "-1");
    next.querySelector(".question").focus();
  });
  addEventListener("hashchange", () => { fromAddress(); apply(); });
  form.hidden = false;
  fromAddress();
  apply();
})();
