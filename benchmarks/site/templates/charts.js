"use strict";
// Charts of a row's page. Each is a figure: a heading, an SVG that says in words what it shows, a legend and a note.
const charts = (() => {
  const SVG = "http://www.w3.org/2000/svg", LETTER = 6.3, WIDTH = 380, ROW = 26;

  function html(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  function plain(value) {
    for (const [limit, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= limit) return `${Number((value / limit).toPrecision(4))}${unit}`;
    }
    return String(Number(value.toPrecision(4)));
  }
  const cut = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);

  function ticks(low, high, about = 5) {
    if (!(high > low)) return [low];
    const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n <= Math.floor(high / step + 1e-9); n++) found.push(Number((n * step).toPrecision(12)) + 0);
    return found;
  }
  function padded(values, share = 0.06) {
    const low = Math.min(...values), high = Math.max(...values);
    const room = (high - low) * share || Math.abs(high) * 0.05 || 0.5;
    return [low - room, high + room];
  }
  const scale = (low, high, start, end) => (value) => {
    const share = (value - low) / (high - low || 1);
    return start + Math.min(Math.max(share, 0), 1) * (end - start);
  };
  const colour = (number, kind = "s") => `${kind}${number % 6}${number >= 6 ? ` d${Math.floor(number / 6) % 3}` : ""}`;

  function drawing(width, height) {
    const svg = document.createElementNS(SVG, "svg");
    for (const [key, value] of Object.entries({ role: "img", width, height, viewBox: `0 0 ${width} ${height}` })) svg.setAttribute(key, value);
    const add = (name, attributes, text, into = svg) => {
      const made = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, typeof value === "number" ? Number(value.toFixed(1)) : value);
      if (text !== undefined) {
        if (name === "text") made.textContent = text;
        else { const title = document.createElementNS(SVG, "title"); title.textContent = text; made.append(title); }
      }
      into.append(made);
      return made;
    };
    return {
      svg, add,
      line: (x1, y1, x2, y2, classes) => add("line", { x1, y1, x2, y2, class: classes }),
      text: (x, y, text, classes = "label", anchor = "start") => add("text", { x, y, class: classes, "text-anchor": anchor }, text),
      upright: (x, y, text) => add("text", { transform: `translate(${x} ${y}) rotate(-90)`, class: "name", "text-anchor": "middle" }, text),
      dot: (cx, cy, classes, r, text) => add("circle", { cx, cy, r, class: classes }, text),
    };
  }
  function figure(title, d, label, legend = [], note = "") {
    d.svg.setAttribute("aria-label", label);
    const caption = html("figcaption");
    if (legend.length > 1) {
      caption.append(html("ul", { class: "legend" }, ...legend.map(([name, classes]) => {
        const swatch = drawing(8, 8);
        swatch.svg.removeAttribute("role");
        swatch.svg.setAttribute("aria-hidden", "true");
        swatch.dot(4, 4, classes, 4);
        return html("li", {}, swatch.svg, name);
      })));
    }
    if (note) caption.append(note);
    return html("figure", {}, html("h3", {}, title), d.svg, caption);
  }

  // Lines in a frame: {title, x, y, lines: [{name, xs, ys, low, high}], unit, diagonal, note}.
  function lines(chart) {
    const all = (name) => chart.lines.flatMap((line) => line[name] ?? []);
    const both = padded([...all("xs"), ...all("ys"), ...all("low"), ...all("high")]);
    const epochs = Math.max(...all("xs"));
    const [xs, ys] = chart.kind === "unit" ? [[0, 1], [0, 1]] : chart.kind === "alike" ? [both, both] : [[1, Math.max(epochs, 2)], padded(all("ys"))];
    const height = chart.kind === "epochs" ? 280 : 340, d = drawing(WIDTH, height);
    const left = 54, right = WIDTH - 14, top = 12, bottom = height - 42;
    const x = scale(...xs, left, right), y = scale(...ys, bottom, top);
    for (const tick of ticks(...ys)) {
      d.line(left, y(tick), right, y(tick), "grid");
      d.text(left - 6, y(tick) + 4, plain(tick), "tick", "end");
    }
    const step = Math.max(1, Math.ceil(epochs / 8));
    const across = chart.kind === "epochs" ? [...Array(epochs).keys()].map((n) => n + 1).filter((n) => (n - 1) % step === 0) : ticks(...xs);
    for (const tick of across) {
      d.line(x(tick), bottom, x(tick), bottom + 4, "axis");
      d.text(x(tick), bottom + 17, plain(tick), "tick", "middle");
    }
    d.line(left, bottom, right, bottom, "axis");
    d.line(left, bottom, left, top, "axis");
    d.text((left + right) / 2, bottom + 36, chart.x, "name", "middle");
    d.upright(13, (bottom + top) / 2, chart.y);
    if (chart.diagonal) d.line(x(xs[0]), y(xs[0]), x(xs[1]), y(xs[1]), "diagonal");
    chart.lines.forEach((line, number) => {
      (line.low ?? []).forEach((low, n) => d.line(x(line.xs[n]), y(low), x(line.xs[n]), y(line.high[n]), `whisker ${colour(number)}`));
      d.add("polyline", { points: line.xs.map((each, n) => `${x(each).toFixed(1)},${y(line.ys[n]).toFixed(1)}`).join(" "), class: `line ${colour(number)}` });
      if (line.xs.length <= 20) line.xs.forEach((each, n) => d.dot(x(each), y(line.ys[n]), colour(number, "f"), 2.6, `${line.name}: ${plain(each)}, ${plain(line.ys[n])}`));
    });
    const words = chart.lines.map((line) => `${line.name} from ${plain(line.ys[0])} to ${plain(line.ys.at(-1))}`).join("; ");
    return figure(chart.title, d, `${chart.title}: ${chart.y} against ${chart.x}. ${words}.`,
      chart.lines.map((line, number) => [line.name, colour(number, "f")]), chart.note);
  }

  const shown = (value, low, high) => `${value.toFixed(3)}${low === null || high === null ? "" : ` [${low.toFixed(3)}, ${high.toFixed(3)}]`}`;

  // A point with its interval for each row: {title, x, rows: [[name, value, low, high, colour]], note}.
  function intervals(chart) {
    const rows = chart.rows.filter((row) => row[1] !== null);
    if (!rows.length) return null;
    const left = Math.min(Math.max(66, 14 + Math.max(...rows.map((row) => row[0].length)) * LETTER), 170), right = WIDTH - 18;
    const bottom = 8 + ROW * rows.length, d = drawing(WIDTH, bottom + 42);
    const ends = padded(rows.flatMap((row) => row.slice(1, 4)).filter((each) => each !== null)), x = scale(...ends, left, right);
    for (const tick of ticks(...ends, 4)) {
      d.line(x(tick), 4, x(tick), bottom, "grid");
      d.text(x(tick), bottom + 16, plain(tick), "tick", "middle");
    }
    d.line(left, bottom, right, bottom, "axis");
    rows.forEach(([name, value, low, high, which], place) => {
      const y = 8 + ROW * (place + 0.5);
      d.text(left - 10, y + 4, cut(name, 25), "label", "end");
      if (low !== null && high !== null) d.line(x(low), y, x(high), y, `bar ${colour(which)}`);
      d.dot(x(value), y, colour(which, "f"), 4.5, `${name}: ${shown(value, low, high)}`);
    });
    d.text((left + right) / 2, bottom + 35, chart.x, "name", "middle");
    return figure(chart.title, d, `${chart.title}, ${chart.x}: ${rows.map((row) => `${row[0]} ${shown(...row.slice(1, 4))}`).join("; ")}.`, [], chart.note);
  }

  // Seconds of each step, a bar for each seed: [[name, {step: seconds}]].
  function time(rows) {
    const longest = Math.max(0, ...rows.map(([, times]) => Object.values(times).reduce((a, b) => a + b, 0)));
    if (!(longest > 0)) return null;
    const steps = [...new Set(rows.flatMap(([, times]) => Object.keys(times)))];
    const left = 66, right = WIDTH - 18, bottom = 8 + ROW * rows.length, d = drawing(WIDTH, bottom + 42);
    const x = scale(0, longest * 1.02, left, right);
    for (const tick of ticks(0, longest * 1.02, 4)) {
      d.line(x(tick), 4, x(tick), bottom, "grid");
      d.text(x(tick), bottom + 16, plain(tick), "tick", "middle");
    }
    rows.forEach(([name, times], place) => {
      let start = 0;
      d.text(left - 10, 8 + ROW * (place + 0.5) + 4, name, "label", "end");
      for (const [step, seconds] of Object.entries(times)) {
        d.add("rect", { x: x(start), y: 13 + ROW * place, width: x(start + seconds) - x(start), height: ROW - 10, class: colour(steps.indexOf(step), "f") }, `${step}: ${seconds.toFixed(2)} s`);
        start += seconds;
      }
    });
    d.line(left, bottom, right, bottom, "axis");
    d.text((left + right) / 2, bottom + 35, "seconds", "name", "middle");
    const words = rows.map(([name, times]) => `${name}: ${Object.entries(times).map(([step, s]) => `${step} ${s.toFixed(2)} s`).join(", ")}`).join("; ");
    return figure("Where the time went", d, `Seconds by step. ${words}.`, steps.map((step, n) => [step, colour(n, "f")]));
  }

  // {classes, counts, note}: true class by predicted class.
  function confusion({ classes, counts, note }) {
    const names = classes.map((name) => cut(name, 18)), widest = Math.max(...names.map((name) => name.length));
    const CELL = 48, left = 34 + widest * LETTER, top = 26, K = classes.length;
    const d = drawing(Math.round(left + CELL * K + 14), Math.round(top + CELL * K + 26 + widest * 4.2));
    const totals = counts.map((row) => row.reduce((a, b) => a + b, 0));
    counts.forEach((row, i) => {
      d.text(left - 8, top + CELL * (i + 0.5) + 4, names[i], "label", "end");
      row.forEach((value, j) => {
        const share = totals[i] ? value / totals[i] : 0, x = left + CELL * j, y = top + CELL * i;
        d.add("rect", { x: x + 1, y: y + 1, width: CELL - 2, height: CELL - 2, class: `heat h${Math.round(share * 10)}` }, `${classes[i]} taken for ${classes[j]}: ${plain(value)} of ${plain(totals[i])}`);
        d.text(x + CELL / 2, y + CELL / 2 + 1, `${Math.round(100 * share)}%`, "cell", "middle");
        d.text(x + CELL / 2, y + CELL / 2 + 15, plain(value), "small", "middle");
      });
    });
    names.forEach((name, j) => {
      d.add("text", { transform: `translate(${left + CELL * (j + 0.5)} ${top + CELL * K + 13}) rotate(-35)`, class: "label", "text-anchor": "end" }, name);
    });
    d.text(left + (CELL * K) / 2, 15, "predicted", "name", "middle");
    d.upright(13, top + (CELL * K) / 2, "true");
    const words = classes.map((name, k) => `${name} right in ${plain(counts[k][k])} of ${plain(totals[k])}`).join("; ");
    return figure("Confusion matrix", d, `Confusion matrix. ${words}.`, [], note);
  }

  return { lines, intervals, time, confusion, html, shown };
})();
