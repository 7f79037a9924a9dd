"use strict";
(() => {
  const root = document.documentElement, names = ["auto", "light", "dark"];
  const kept = () => { try { return localStorage.getItem("medgraft-theme"); } catch { return null; } };
  const keep = (name) => { try { localStorage.setItem("medgraft-theme", name); } catch { /* a file may have no store */ } };
  const show = (name) => { if (name === "auto") delete root.dataset.theme; else root.dataset.theme = name; };
  let theme = names.includes(kept()) ? kept() : "auto";
  show(theme);
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const say = () => { button.textContent = `Theme: ${theme}`; };
    button.hidden = false;
    say();
    button.addEventListener("click", () => {
      theme = names[(names.indexOf(theme) + 1) % names.length];
      show(theme); keep(theme); say();
    });
  });
})();
