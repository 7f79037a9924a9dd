"use strict";
// The tables: rows come as data, and only those of one page stand in the document. All that is foreign is text.
(() => {
  const PAGE = 25, SVG = "http://www.w3.org/2000/svg";
  const board = JSON.parse(document.getElementById("board").textContent);
  const at = (id) => document.getElementById(id);
  const FILTERS = ["task", "encoder", "adapter", "tag", "suite", "data"];

  // --- data ---------------------------------------------------------------------------------------------------------
  // A section has columns {key, label, type, down, shown} and rows [id, adapter, note, marks, tie, values].
  const sections = board.sections.map((section) => {
    const rows = section.rows.map(([id, adapter, note, marks, tie, suite, words, values]) => ({
      id, adapter, note, marks, tie, suites: suite ? suite.split(", ") : [], words, values, section,
    }));
    section.place = new Map(section.columns.map((column, index) => [column.key, index]));
    return Object.assign(section, { rows, element: at(section.id), page: 0, ranges: new Map() });
  });
  const text = (row) => (row.found ??= [
    row.adapter, row.note, row.words, row.marks.join(" "), row.section.title, row.values[row.section.place.get("encoder")],
  ].join(" ").toLowerCase());
  const encoder = (row) => row.values[row.section.place.get("encoder")];
  const number = (value) => (Array.isArray(value) ? value[0] : value);

  // --- state, and the address that holds it -------------------------------------------------------------------------
  const start = () => ({ q: "", task: "", encoder: "", adapter: "", tag: "", suite: "", data: "", sort: {}, cols: {} });
  let state = start();

  function write() {
    const parts = [];
    for (const name of ["q", ...FILTERS]) if (state[name]) parts.push(`${name}=${encodeURIComponent(state[name])}`);
    const sorts = Object.entries(state.sort).map(([id, [key, up]]) => `${id}:${up ? "up" : "down"}:${key}`);
    if (sorts.length) parts.push(`sort=${encodeURIComponent(sorts.join(","))}`);
    const cols = Object.entries(state.cols).map(([key, on]) => (on ? key : `!${key}`));
    if (cols.length) parts.push(`cols=${encodeURIComponent(cols.join(","))}`);
    history.replaceState(null, "", `#${parts.join("&")}`);
  }

  function read() {
    const hash = location.hash.slice(1);
    state = start();
    if (!hash.includes("=")) return;
    for (const part of hash.split("&")) {
      const [name, ...rest] = part.split("=");
      let value;
      try { value = decodeURIComponent(rest.join("=")); } catch { continue; }
      if (name === "q" || FILTERS.includes(name)) state[name] = value;
      if (name === "cols") {
        for (const key of value.split(",")) if (key) state.cols[key.replace(/^!/, "")] = !key.startsWith("!");
      }
      if (name === "sort") {
        for (const each of value.split(",")) {
          const [id, way, ...key] = each.split(":");
          if (key.length) state.sort[id] = [key.join(":"), way === "up"];
        }
      }
    }
  }

  // --- what is shown ------------------------------------------------------------------------------------------------
  const fits = (section) => (!state.task || section.task === state.task) && (!state.tag || section.tags.includes(state.tag))
    && (!state.data || section.phantom === (state.data === "phantom"));
  const columns = (section) => section.columns.filter((column) => state.cols[column.key] ?? column.shown);

  function rowsOf(section) {
    if (!fits(section)) return [];
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = section.rows.filter((row) => (!state.encoder || encoder(row) === state.encoder)
      && (!state.adapter || row.adapter === state.adapter) && (!state.suite || row.suites.includes(state.suite))
      && words.every((word) => text(row).includes(word)));
    const order = state.sort[section.id];
    if (!order || !section.place.has(order[0])) return rows;
    const place = section.place.get(order[0]), sign = order[1] ? 1 : -1;
    const value = (row) => number(row.values[place]);
    const none = (each) => each === null || each === undefined || each === "";
    return rows.slice().sort((one, other) => {
      const a = value(one), b = value(other);
      if (none(a) || none(b)) return none(a) - none(b);  // what is not known comes last, either way
      return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
    });
  }

  // --- cells --------------------------------------------------------------------------------------------------------
  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  function drawn(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }
  function short(value) {
    for (const [limit, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= limit) return `${(value / limit).toPrecision(3).replace(/\.?0+$/, "")}${unit}`;
    }
    return String(Number(value.toPrecision(3)));
  }
  const fixed = (value) => (Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(3));

  function range(section, place) {
    if (!section.ranges.has(place)) {
      let low = Infinity, high = -Infinity;
      for (const row of section.rows) {
        const value = row.values[place];
        if (value) for (const end of value) if (end !== null) { low = Math.min(low, end); high = Math.max(high, end); }
      }
      section.ranges.set(place, [low, high]);
    }
    return section.ranges.get(place);
  }

  function metric(section, place, value) {
    const cell = element("td", { class: "metric" });
    if (!value) { cell.append("–"); return cell; }
    const [mean, low, high] = value, [least, most] = range(section, place);
    const x = (each) => 4 + (76 * (each - least)) / (most - least || 1);
    cell.append(element("b", {}, fixed(mean)));
    if (low !== null && high !== null) {
      const svg = drawn("svg", { viewBox: "0 0 84 10", "aria-hidden": "true" });
      svg.append(drawn("line", { x1: x(low), x2: x(high), y1: 5, y2: 5, class: "interval" }),
        drawn("circle", { cx: x(mean), cy: 5, r: 3, class: "value" }));
      cell.append(svg, element("small", {}, `[${fixed(low)}, ${fixed(high)}]`));
    }
    return cell;
  }

  function cell(row, column, place) {
    const value = row.values[place];
    if (column.key === "adapter") {
      const head = element("th", { scope: "row" }, element("a", { href: `rows/${row.section.id}${row.section.rows.length > board.together ? `-${row.id[0]}` : ""}.html#${row.id}` }, row.adapter));
      if (row.note) head.append(element("small", {}, row.note));
      if (row.marks.length) head.append(element("div", {}, ...row.marks.map((each) => element("span", { class: "mark" }, each))));
      return head;
    }
    if (column.type === "rank") {
      if (!value) return element("td", { class: "rank" }, "–");
      const [rank, low, high] = value, said = `rank ${rank}, 95% interval ${low} to ${high}`;
      return element("td", { class: "rank", title: said }, String(rank), low === high ? "" : element("small", {}, `${low}–${high}`));
    }
    if (column.type === "metric") return metric(row.section, place, value);
    if (column.type === "count") {
      return element("td", { class: "number" }, value === null ? "–" : short(value));
    }
    return element("td", { class: column.type === "long" ? "wrap" : "" }, value === "" || value === null ? "–" : String(value));
  }

  // --- tables -------------------------------------------------------------------------------------------------------
  function heads(section, shown) {
    const order = state.sort[section.id];
    return shown.map((column) => {
      const up = order && order[0] === column.key ? order[1] : null;
      const button = element("button", { type: "button" }, column.label);
      const head = element("th", { scope: "col", class: column.key === "adapter" ? "first" : column.type === "count" || column.type === "metric" ? "number" : "" }, button);
      head.setAttribute("aria-sort", up === null ? "none" : up ? "ascending" : "descending");
      if (column.title) button.title = column.title;
      button.addEventListener("click", () => {
        state.sort[section.id] = [column.key, up === null ? !column.down : !up];
        section.page = 0;
        write();
        table(section, rowsOf(section));
        const place = columns(section).findIndex((each) => each.key === column.key);
        section.element.querySelectorAll("thead button")[place].focus();
      });
      return head;
    });
  }

  function table(section, rows) {
    const shown = columns(section), pages = Math.max(1, Math.ceil(rows.length / PAGE));
    section.page = Math.min(section.page, pages - 1);
    const first = section.page * PAGE, here = rows.slice(first, first + PAGE);
    section.element.hidden = rows.length === 0;
    if (!rows.length) return;
    const many = rows.length === 1 ? "1 row" : `${rows.length} rows`;
    section.element.querySelector("caption").textContent = pages > 1
      ? `${section.title}: rows ${first + 1} to ${first + here.length} of ${rows.length}` : `${section.title}: ${many}`;
    section.element.querySelector("thead").replaceChildren(element("tr", {}, ...heads(section, shown)));
    section.element.querySelector("tbody").replaceChildren(...here.map((row) => element(
      "tr", row.tie ? { class: `tie${row.tie % 2}` } : {}, ...shown.map((column) => cell(row, column, section.place.get(column.key))))));
    const pager = section.element.querySelector(".pager");
    pager.hidden = pages === 1;
    pager.querySelector(".where").textContent = `Page ${section.page + 1} of ${pages}`;
    pager.querySelector(".back").disabled = section.page === 0;
    pager.querySelector(".on").disabled = section.page === pages - 1;
  }

  function show() {
    let rows = 0, tables = 0, all = 0;
    for (const section of sections) {
      const found = rowsOf(section);
      rows += found.length; tables += found.length > 0; all += section.rows.length;
      table(section, found);
    }
    const said = rows === all ? `All ${all} rows` : `${rows} of ${all} rows`;
    at("shown").textContent = rows ? `${said} in ${tables} ${tables === 1 ? "table" : "tables"}` : `No row of ${all} fits`;
  }

  // --- controls -----------------------------------------------------------------------------------------------------
  const CHOICES = {
    task: () => sections.map((section) => section.task),
    encoder: () => sections.flatMap((section) => section.rows.map(encoder)),
    adapter: () => sections.flatMap((section) => section.rows.map((row) => row.adapter)),
    tag: () => sections.flatMap((section) => section.tags),
    suite: () => sections.flatMap((section) => section.rows.flatMap((row) => row.suites)),
    data: () => sections.map((section) => (section.phantom ? "phantom" : "real")),
  };
  function fill() {
    for (const name of FILTERS) {
      const values = [...new Set(CHOICES[name]())].filter(Boolean).sort((a, b) => a.localeCompare(b));
      const options = [["", "all"], ...values.map((value) => [value, value])];
      at(name).replaceChildren(...options.map(([value, label]) => element("option", { value }, label)));
      at(name).closest("label").hidden = values.length < (name === "suite" || name === "tag" ? 1 : 2);
    }
    const every = new Map(sections.flatMap((section) => section.columns).map((column) => [column.key, column]));
    const boxes = [...every.values()].filter((column) => column.key !== "adapter").map((column) => {
      const box = element("input", { type: "checkbox" });
      box.dataset.key = column.key;
      box.addEventListener("change", () => {
        if (box.checked === usual(column.key)) delete state.cols[column.key]; else state.cols[column.key] = box.checked;
        changed();
      });
      return element("label", {}, box, column.label);
    });
    at("choices").replaceChildren(...boxes);
  }
  const usual = (key) => sections.some((section) => section.columns.some((column) => column.key === key && column.shown));

  function controls() {
    at("q").value = state.q;
    for (const name of FILTERS) at(name).value = state[name];
    for (const box of at("choices").querySelectorAll("input")) box.checked = state.cols[box.dataset.key] ?? usual(box.dataset.key);
  }
  function changed() {
    for (const section of sections) section.page = 0;
    write();
    show();
  }

  fill();
  read();
  controls();
  show();

  let waiting = 0;
  at("q").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.q = at("q").value; changed(); }, 120);
  });
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const name of FILTERS) at(name).addEventListener("change", () => { state[name] = at(name).value; changed(); });
  at("reset").addEventListener("click", () => { state = start(); controls(); changed(); });
  at("link").addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(location.href); at("copied").textContent = "Link copied"; }
    catch { at("copied").textContent = "The link is in the address bar"; }
  });
  addEventListener("hashchange", () => {
    if (!location.hash.includes("=") && location.hash.length > 1) return;  // a place on the page
    read(); controls(); show();
  });
  for (const section of sections) {
    const turn = (step) => { section.page += step; table(section, rowsOf(section)); section.element.querySelector("h2").scrollIntoView(); };
    section.element.querySelector(".back").addEventListener("click", () => turn(-1));
    section.element.querySelector(".on").addEventListener("click", () => turn(1));
  }
  const place = location.hash.length > 1 && !location.hash.includes("=") && at(location.hash.slice(1));
  if (place) place.scrollIntoView();
})();
