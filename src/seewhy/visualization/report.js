"use strict";
const byId = (id) => document.getElementById(id);
const LEVELS = 256;
// alpha table of an SVG filter: 1 where isVisible(value) holds for a value in 0..1
const alphaTable = (isVisible) => Array.from({ length: LEVELS }, (_, i) => (isVisible(i / (LEVELS - 1)) ? 1 : 0)).join(" ");
const updateOutput = (id) => { byId(id + "-value").textContent = byId(id).value + " %"; };
const setTable = (selector, table) => document.querySelectorAll(selector).forEach((e) => e.setAttribute("tableValues", table));
if (byId("opacity")) {
  byId("opacity").addEventListener("input", () => {
    document.documentElement.style.setProperty("--opacity", byId("opacity").value / 100);
    updateOutput("opacity");
  });
  byId("threshold").addEventListener("input", () => {
    const threshold = byId("threshold").value / 100;
    setTable(".unsigned-mask", alphaTable((value) => value >= threshold));
    setTable(".signed-mask", alphaTable((value) => Math.abs(2 * value - 1) >= threshold)); // zero is at 0.5
    updateOutput("threshold");
  });
  byId("colormap").addEventListener("change", () => {
    const tables = byId("colormap").selectedOptions[0].dataset;
    setTable("#unsigned feFuncR", tables.red);
    setTable("#unsigned feFuncG", tables.green);
    setTable("#unsigned feFuncB", tables.blue);
  });
}
