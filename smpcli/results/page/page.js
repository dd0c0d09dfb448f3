"use strict";
// Text from runs reaches the page through textContent and attributes alone, never as HTML.
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const COLUMNS = ["method", "settings", "sparsity", "remaining", "", "n", "vs dense", "trained", "bytes", "time"];
  const METRIC = 4, TEXTS = [0, 1];
  const COLOURS = ["#0072b2", "#d55e00", "#000000", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];
  const DASHES = ["", "2 2", "8 2 2 2", "12 3", "8 2 2 2 2 2"];
  const MARKS = [
    "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0", "M-4,-4h8v8h-8z", "M0,-5.5L5,4h-10z", "M0,-5.5L5,0L0,5.5L-5,0z",
    "M0,5.5L5,-4h-10z", "M-1.7,-5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z", "M-5,-5L5,5M-5,5L5,-5",
  ];
  const state = { table: 0, column: null, down: false, search: "", hidden: new Set(), log: false };

  function make(name, attributes, ...children) {
    const svg = ["svg", "g", "path", "line", "text", "rect"].includes(name);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    for (const child of children) made.append(child);
    return made;
  }

  const percent = (value) => (value * 100).toFixed(2).replace(/\.?0+$/, "") + " %";

  // -- table ----------------------------------------------------------------------------------------------

  function order(one, other) {
    if (one === other) return 0;
    // Rows without a value come last, whichever way is up.
    if (one === null) return 1;
    if (other === null) return -1;
    return (one < other ? -1 : 1) * (state.down ? -1 : 1);
  }

  function showTable() {
    const table = data.tables[state.table];
    const head = make("tr");
    const used = COLUMNS.map((_, column) => table.rows.some((row) => row.cells[column][1] !== ""));
    COLUMNS.forEach((name, column) => {
      if (!used[column]) return;
      const button = make("button", { type: "button" }, column === METRIC ? table.metric + " %" : name);
      button.addEventListener("click", () => {
        state.down = state.column === column ? !state.down : !TEXTS.includes(column) && column >= METRIC;
        state.column = column;
        showTable();
        at("rows").tHead.querySelectorAll("button")[used.slice(0, column).filter(Boolean).length].focus();
      });
      const sorted = state.column !== column ? "none" : state.down ? "descending" : "ascending";
      head.append(make("th", { "aria-sort": sorted, class: TEXTS.includes(column) ? "text" : "", scope: "col" }, button));
    });
    at("rows").tHead.replaceChildren(head);
    const wanted = state.search.toLowerCase();
    let rows = table.rows.filter((row) => row.cells.some((cell) => cell[1].toLowerCase().includes(wanted)));
    if (state.column !== null) {
      rows = rows.map((row, place) => [row, place]).sort(([a, i], [b, j]) =>
        order(a.cells[state.column][0], b.cells[state.column][0]) || i - j).map(([row]) => row);
    }
    at("rows").tBodies[0].replaceChildren(...rows.map((row) => {
      const made = make("tr", { class: (row.best ? "best " : "") + (row.published ? "published" : "") });
      row.cells.forEach(([, text], column) => {
        if (used[column]) {
          made.append(make("td", { class: TEXTS.includes(column) ? "text" : column === METRIC ? "metric" : "" }, text + (row.best && column === METRIC ? " *" : "")));
        }
      });
      return made;
    }));
    const notes = [];
    if (table.rows.some((row) => row.best)) notes.push("* best at its sparsity");
    notes.push("vs dense: 95 % interval of a paired bootstrap over dev examples");
    if (table.rows.some((row) => row.published)) notes.push("† published, not run here");
    at("notes").textContent = notes.join(" · ");
  }

  // -- plot -----------------------------------------------------------------------------------------------

  const WIDTH = 760, HEIGHT = 400, LEFT = 56, RIGHT = 18, TOP = 14, BOTTOM = 46;

  function look(place, line) {
    return {
      colour: line.dense ? "#444" : line.published ? "#777" : COLOURS[place % COLOURS.length],
      dash: line.dense ? "6 4" : line.published ? "1 3" : DASHES[place % DASHES.length],
      mark: MARKS[place % MARKS.length],
      fill: line.published ? "#fff" : undefined,
    };
  }

  function ticks(low, high) {
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50].find((size) => (high - low) / size <= 8) || 100;
    const found = [];
    for (let value = Math.ceil(low / step) * step; value <= high + 1e-9; value += step) found.push(value);
    return found.map((value) => [value, value.toFixed(step < 1 ? 1 : 0)]);
  }

  function showPlot() {
    const table = data.tables[state.table];
    const lines = table.lines.map((line, place) => ({ ...line, look: look(place, line), key: place }));
    const shown = lines.filter((line) => !state.hidden.has(line.key));
    const points = (shown.length ? shown : lines).flatMap((line) => line.points.map((point) => [line, point]));
    const shares = [...new Set(points.filter(([line]) => !line.dense).map(([, point]) => point[0]))].sort((a, b) => a - b);
    if (!shares.length) shares.push(1);
    const place = state.log ? Math.log : (value) => value;
    const margin = ((place(shares[shares.length - 1]) - place(shares[0])) || 0.2) * 0.07;
    const [from, to] = [place(shares[0]) - margin, place(shares[shares.length - 1]) + margin];
    const ends = points.flatMap(([, [, y, spread]]) => [(y - spread) * 100, (y + spread) * 100]);
    const slack = Math.max((Math.max(...ends) - Math.min(...ends)) * 0.08, 0.5);
    const [low, high] = [Math.min(...ends) - slack, Math.max(...ends) + slack];
    const x = (value) => LEFT + (place(value) - from) / (to - from) * (WIDTH - LEFT - RIGHT);
    const y = (value) => TOP + (high - value * 100) / (high - low) * (HEIGHT - TOP - BOTTOM);

    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": table.metric + " against remaining weights" });
    for (const [value, text] of ticks(low, high)) {
      svg.append(make("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value / 100), y2: y(value / 100), stroke: "#eee" }),
        make("text", { x: LEFT - 6, y: y(value / 100) + 4, "text-anchor": "end" }, text));
    }
    let last = -Infinity;
    for (const share of shares) {
      svg.append(make("line", { x1: x(share), x2: x(share), y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4, stroke: "#333" }));
      if (x(share) - last < 42) continue;
      last = x(share);
      svg.append(make("text", { x: x(share), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, percent(share)));
    }
    svg.append(
      make("path", { d: `M${LEFT},${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}`, fill: "none", stroke: "#333" }),
      make("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, "remaining weights"),
      make("text", { x: 14, y: (HEIGHT - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(HEIGHT - BOTTOM) / 2})` }, table.metric + " %"));
    const pruned = shown.filter((line) => !line.dense);
    for (const line of shown) {
      // A little beside each other, so that marks of one share don't hide one another.
      const aside = (pruned.indexOf(line) - (pruned.length - 1) / 2) * Math.min(7, 42 / pruned.length);
      svg.append(line.dense ? drawDense(line, y) : drawLine(line, (share) => x(share) + aside, y, table.metric));
    }
    at("plot").replaceChildren(svg);
    at("legend").replaceChildren(...lines.map(legendButton));
    at("log").checked = state.log;
  }

  function drawDense(line, y) {
    const [, mean, spread] = line.points[0];
    const group = make("g", { "data-line": line.name });
    if (spread) {
      group.append(make("rect", { x: LEFT, width: WIDTH - LEFT - RIGHT, y: y(mean + spread), height: Math.max(0, y(mean - spread) - y(mean + spread)), fill: "#000", opacity: 0.08 }));
    }
    const rule = make("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(mean), y2: y(mean), stroke: line.look.colour, "stroke-width": 1.5, "stroke-dasharray": line.look.dash, class: "mark", tabindex: 0 });
    explain(rule, `${line.name}\n${(mean * 100).toFixed(2)}${spread ? " ± " + (spread * 100).toFixed(2) : ""} %`);
    group.append(rule);
    return group;
  }

  function drawLine(line, x, y, metric) {
    const group = make("g", { "data-line": line.name });
    const { colour, dash, mark, fill } = line.look;
    group.append(make("path", {
      d: line.points.map(([share, mean], index) => `${index ? "L" : "M"}${x(share)},${y(mean)}`).join(""),
      fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash,
    }));
    for (const [share, mean, spread] of line.points) {
      if (spread) {
        group.append(make("path", {
          d: `M${x(share) - 4},${y(mean + spread)}h8m-4,0V${y(mean - spread)}m-4,0h8`, stroke: colour, fill: "none",
        }));
      }
      const made = make("path", { d: mark, transform: `translate(${x(share)} ${y(mean)})`, fill: fill || colour, stroke: colour, "stroke-width": 1.5, class: "mark", tabindex: 0 });
      const value = (mean * 100).toFixed(2) + (spread ? " ± " + (spread * 100).toFixed(2) : "");
      explain(made, `${line.name}\n${percent(share)} of the weights remain\n${metric} ${value} %`);
      group.append(made);
    }
    return group;
  }

  function legendButton(line) {
    const { colour, dash, mark, fill } = line.look;
    const sample = make("svg", { viewBox: "0 0 34 14", "aria-hidden": "true" },
      make("line", { x1: 1, x2: 33, y1: 7, y2: 7, stroke: colour, "stroke-width": 2, "stroke-dasharray": dash }));
    if (!line.dense) sample.append(make("path", { d: mark, transform: "translate(17 7)", fill: fill || colour, stroke: colour }));
    const button = make("button", { type: "button", "aria-pressed": String(!state.hidden.has(line.key)) }, sample, line.name);
    button.addEventListener("click", () => {
      if (!state.hidden.delete(line.key)) state.hidden.add(line.key);
      showPlot();
      at("legend").children[line.key].focus();
    });
    return button;
  }

  function explain(element, text) {
    element.setAttribute("aria-label", text.replaceAll("\n", ", "));
    const tip = at("tip");
    const show = (left, top) => {
      tip.textContent = text;
      tip.hidden = false;
      tip.style.left = Math.min(left + 14, innerWidth - tip.offsetWidth - 6) + "px";
      tip.style.top = Math.max(6, top - tip.offsetHeight - 10) + "px";
    };
    element.addEventListener("mousemove", (event) => show(event.clientX, event.clientY));
    element.addEventListener("focus", () => {
      const box = element.getBoundingClientRect();
      show(box.left + box.width / 2, box.top);
    });
    for (const end of ["mouseleave", "blur"]) element.addEventListener(end, () => { tip.hidden = true; });
  }

  // -- density --------------------------------------------------------------------------------------------

  function showHeat() {
    const run = data.runs[at("masked").value];
    if (!run) {
      at("heat").replaceChildren(make("p", { class: "note" }, "None of these runs has a mask."));
      return;
    }
    const grid = run.density;
    if (grid.problem) {
      at("heat").replaceChildren(make("p", { class: "note" }, grid.problem));
      return;
    }
    const top = Math.max(...grid.values.flat().filter((value) => value !== null), 1e-9);
    const table = make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "layer"),
      ...grid.short.map((kind, place) => make("th", { scope: "col", title: grid.kinds[place] }, kind)), make("th", {}, "all"))));
    const body = make("tbody");
    grid.layers.forEach((layer, row) => {
      const made = make("tr", {}, make("th", { scope: "row" }, String(layer)));
      grid.values[row].forEach((value, column) => {
        const cell = make("td", { class: "cell" }, value === null ? "" : (value * 100).toFixed(1));
        if (value !== null) {
          const share = value / top, [kept, size] = grid.counts[row][column];
          cell.style.background = `rgb(${[8, 69, 148].map((end) => Math.round(255 - share * (255 - end))).join(",")})`;
          cell.style.color = share > 0.55 ? "#fff" : "#000";
          explain(cell, `layer ${layer}, ${grid.kinds[column]}\n${kept.toLocaleString("en")} of ${size.toLocaleString("en")} weights (${percent(value)})`);
        }
        made.append(cell);
      });
      made.append(make("td", {}, (grid.by_layer[row] * 100).toFixed(1)));
      body.append(made);
    });
    body.append(make("tr", {}, make("th", { scope: "row" }, "all"),
      ...grid.by_kind.map((value) => make("td", { class: "cell" }, (value * 100).toFixed(1))),
      make("td", {}, (grid.whole * 100).toFixed(1))));
    table.append(body);
    at("heat").replaceChildren(table, make("p", { class: "note" }, "Per cent of each matrix's weights that remain."));
  }

  // -- differences ----------------------------------------------------------------------------------------

  function showDifferences() {
    const pair = [data.runs[at("one").value], data.runs[at("other").value]];
    const rows = [];
    for (const part of ["settings", "results"]) {
      for (const key of [...new Set(pair.flatMap((run) => Object.keys(run[part])))].sort()) {
        const [one, other] = pair.map((run) => (Object.hasOwn(run[part], key) ? run[part][key] : "—"));
        if (one !== other) rows.push([key, one, other]);
      }
    }
    if (!rows.length) {
      at("differences").replaceChildren(make("p", { class: "note" }, "Nothing: the same settings and results."));
      return;
    }
    at("differences").replaceChildren(make("table", {},
      make("thead", {}, make("tr", {}, ...["setting or result", ...pair.map((run) => run.name)].map((name) => make("th", { class: "text", scope: "col" }, name)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((text) => make("td", { class: "text" }, text)))))));
  }

  // -- start ----------------------------------------------------------------------------------------------

  function options(id, entries) {
    at(id).replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));
  }

  function choose(table) {
    state.table = Number(table);
    state.column = null;
    state.hidden.clear();
    const shares = data.tables[state.table].lines.filter((line) => !line.dense).flatMap((line) => line.points.map((point) => point[0]));
    state.log = shares.length > 0 && Math.max(...shares) / Math.min(...shares) >= 4;
    showTable();
    showPlot();
  }

  const count = (name) => data.runs.filter((run) => run.name === name).length;
  const named = data.runs.map((run, place) => [place, count(run.name) > 1 ? run.path : run.name]);
  const masked = named.filter(([place]) => data.runs[place].density);
  options("subject", data.tables.map((table, place) => [place, table.title]));
  options("masked", masked);
  options("one", named);
  options("other", named);
  if (named.length > 1) at("other").value = String(named[1][0]);
  at("about").textContent = `${data.runs.length} runs · made by smp ${data.version}`;
  at("left-out").hidden = !data.problems.length;
  at("problems").append(...data.problems.map((problem) => make("li", {}, `${problem.path}: ${problem.reason}`)));
  at("subject").addEventListener("change", (event) => choose(event.target.value));
  at("search").addEventListener("input", (event) => { state.search = event.target.value; showTable(); });
  at("log").addEventListener("change", (event) => { state.log = event.target.checked; showPlot(); });
  at("masked").addEventListener("change", showHeat);
  for (const id of ["one", "other"]) at(id).addEventListener("change", showDifferences);
  choose(0);
  showHeat();
  showDifferences();
})();
