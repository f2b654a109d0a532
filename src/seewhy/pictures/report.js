"use strict";
const find = (id) => document.getElementById(id);
const steps = 256;
// a value is kept where its distance from zero reaches the threshold
const table = (kept) => Array.from({ length: steps }, (_, i) => (kept(i / (steps - 1)) ? 1 : 0)).join(" ");
const say = (id) => { find(id + "-said").textContent = find(id).value + " %"; };
const set = (where, values) => document.querySelectorAll(where).forEach((e) => e.setAttribute("tableValues", values));
if (find("opacity")) {
  find("opacity").addEventListener("input", () => {
    document.documentElement.style.setProperty("--opacity", find("opacity").value / 100);
    say("opacity");
  });
  find("threshold").addEventListener("input", () => {
    const least = find("threshold").value / 100;
    set(".above", table((value) => value >= least));
    set(".beyond", table((value) => Math.abs(2 * value - 1) >= least));
    say("threshold");
  });
  find("colours").addEventListener("change", () => {
    const chosen = find("colours").selectedOptions[0].dataset;
    set("#plain feFuncR", chosen.red);
    set("#plain feFuncG", chosen.green);
    set("#plain feFuncB", chosen.blue);
  });
}
