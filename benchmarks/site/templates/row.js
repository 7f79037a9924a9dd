"use strict";
// The page of one row, which the address names behind its #; without one, the rows of the table. All foreign is text.
(() => {
  const { html, shown } = charts;
  const page = JSON.parse(document.getElementById("rows").textContent);
  const main = document.getElementById("main"), heading = document.getElementById("heading");

  function table(title, heads, rows, note = "", numbers = 0) {
    const kind = (place) => (numbers && place >= numbers ? { class: "number" } : {});
    const head = html("tr", {}, ...heads.map((each, place) => html("th", { scope: "col", ...kind(place) }, each || html("span", { class: "unseen" }, "of"))));
    const body = rows.map((row) => html("tr", {}, ...row.map((cell, place) => (
      place ? html("td", kind(place), cell) : html("th", { scope: "row" }, cell)))));
    return html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
      html("table", {}, html("caption", {}, note ? `${title}. ${note}` : title), html("thead", {}, head), html("tbody", {}, ...body)));
  }
  function section(id, title, ...children) {
    return html("section", { "aria-labelledby": id }, html("h2", { id }, title), ...children.filter(Boolean));
  }
  const pairs = (list) => html("dl", { class: "facts" }, ...list.map(([name, text]) => html("div", {}, html("dt", {}, name), html("dd", {}, text))));
  const remark = (text) => html("p", { class: "remark" }, text);
  const number = (triple) => (triple ? shown(...triple) : "–");

  function numbers(row) {
    const parts = [];
    if (row.standing) {
      const [rank, low, high] = row.standing;
      parts.push(html("p", {}, `Rank ${rank} of ${page.count} in its table; the data allow ${low === high ? "no other" : `${low} to ${high}`}.`));
    }
    if (row.overall.length) {
      const rows = row.overall.map(([name, value, low, high, lower]) => [name, value.toFixed(3), low === null || high === null ? "none" : `${low.toFixed(3)} to ${high.toFixed(3)}`, lower ? "lower" : "higher"]);
      const note = `${row.seeds.length > 1 ? `Means over ${row.seeds.length} seeds` : "One seed"}, with 95% intervals. The first ranks the table`;
      parts.push(table("Overall", ["number", "value", "95% interval", "better is"], rows, note, 1));
    }
    if (row.classes.rows.length) parts.push(table("By class", row.classes.heads, row.classes.rows.map(([name, ...each]) => [name, ...each.map(number)]), "", 1));
    for (const each of row.tables) parts.push(table(each.title, each.heads, each.rows, each.note));
    if (row.failures.length) {
      parts.push(html("h3", {}, "Cells that did not succeed"), html("ul", {}, ...row.failures.map(([seed, status, message]) => html("li", {}, `seed ${seed}: ${status}: ${message}`))));
    }
    return section("numbers", "Numbers", ...parts);
  }

  function pictures(row) {
    const made = [
      charts.intervals(row.charts.seeds), row.charts.losses && charts.lines(row.charts.losses), row.charts.confusion && charts.confusion(row.charts.confusion),
      ...row.charts.lines.map(charts.lines), ...row.charts.groups.map(charts.intervals), charts.time(row.charts.time),
    ].filter(Boolean);
    if (row.picture) {
      made.push(html("figure", {}, html("h3", {}, "Embedding of the test samples"),
        html("img", { src: row.picture, alt: "Test samples by class before and after training, in two dimensions" })));
    }
    const parts = [html("div", { class: "figures" }, ...made)];
    if (row.embed) {
      const said = html("p", {}, "Results hold no features, so an embedding of the test samples is drawn by training the cell again: ");
      said.append(html("code", {}, row.embed), ". Written beside the result, the picture stands here when the board is made again.");
      parts.push(said);
    }
    return section("charts", "Charts", ...parts);
  }

  function made(row) {
    const button = html("button", { type: "button" }, "Copy"), said = html("span", { role: "status", class: "soft" });
    button.addEventListener("click", async () => {
      try { await navigator.clipboard.writeText(row.command); said.textContent = "Copied"; } catch { said.textContent = "Select the text to copy it"; }
    });
    const where = page.phantom ? "The generated cohort is that of the sweep's preset: add --preset NAME where that was not the default, or --data NAME=PATH where it has a folder of its own."
      : "PATH is where your copy of the cohort is.";
    return section("made", "How to make it again", html("p", {}, `Trained: ${row.recipe}. ${where}`),
      html("pre", { tabindex: "0", "aria-label": "Command", role: "region" }, html("code", {}, row.command)), html("p", { class: "acts" }, button, " ", said),
      table("Results", row.results.heads, row.results.rows));
  }

  function show() {
    const id = decodeURIComponent(location.hash.slice(1)), row = page.rows.find((each) => each.id === id);
    if (!row) {
      if (["numbers", "charts", "made", "cost", "card", "provenance", "main"].includes(id) && main.childElementCount) return;
      heading.textContent = page.title;
      document.title = page.title;
      document.getElementById("on").textContent = id ? `This board has no row ${id}.` : "";
      main.replaceChildren(html("ul", {}, ...page.rows.map((each) => html("li", {}, html("a", { href: `#${each.id}` }, `${each.adapter}${each.note ? ` (${each.note})` : ""} on ${each.encoder}`)))));
      return;
    }
    heading.textContent = row.note ? `${row.adapter} (${row.note})` : row.adapter;
    document.title = `${row.adapter} on ${row.encoder}: ${page.title}`;
    document.getElementById("on").textContent = `on ${row.encoder}`;
    const remarks = [
      page.phantom && "PHANTOM: measured on a generated cohort; it shows that the machinery works and is no clinical evidence.",
      ...row.marks, row.warning && `${row.warning}: the intervals are too narrow.`, row.saw && "Pre-training of the encoder saw this cohort.",
      row.status !== "success" && `Status: ${row.status}`,
    ].filter(Boolean).map(remark);
    main.replaceChildren(...remarks, numbers(row), pictures(row), made(row),
      section("cost", "Time and memory", row.costs.length ? pairs(row.costs) : html("p", {}, "Nothing was measured.")),
      section("card", "Adapter card", ...(row.cards.length ? row.cards.flatMap(([name, list]) => [html("h3", {}, name), pairs(list)]) : [html("p", {}, "The results say nothing of the adapter.")])),
      section("provenance", "Provenance", ...row.facts.flatMap((which) => { const [title, list] = page.facts[which]; return [html("h3", {}, title), pairs(list)]; })));
  }
  show();
  addEventListener("hashchange", () => { show(); if (page.rows.some((row) => `#${row.id}` === location.hash)) scrollTo(0, 0); });
})();
