"use strict";
// Text from runs reaches the page through textContent and attributes alone, never as HTML.
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const COLUMNS = ["method", "settings", "sparsity", "remaining", "", "n", "vs dense", "trained", "bytes", "time"];
  const METRIC = 4, TEXTS = [0, 1];
  // The buttons that there may be: by default, one of Plotly's sends the data to its makers.
  const BUTTONS = ["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"];
  const CHART = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "", modeBarButtons: [BUTTONS] };
  const state = { table: 0, column: null, down: false, search: "" };

  function make(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
    for (const child of children) made.append(child);
    return made;
  }

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
      const made = make("tr", { class: (row.best ? "best " : "") + (row.beside ? "beside" : "") });
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
    notes.push(...table.notes);
    at("notes").textContent = notes.join(" · ");
  }

  // -- charts ---------------------------------------------------------------------------------------------

  function showPlot() {
    const { data: traces, layout } = data.tables[state.table].plot;
    at("log").checked = layout.xaxis.type === "log";
    Plotly.react("plot", traces, layout, CHART);
  }

  function showHeat() {
    const run = data.runs[at("masked").value];
    const chart = run && !run.density.problem;
    at("heat").hidden = !chart;
    at("unmasked").textContent = chart ? "Per cent of each matrix's weights that remain." : run ? run.density.problem : "None of these runs has a mask.";
    if (chart) Plotly.react("heat", run.density.data, run.density.layout, CHART);
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
  at("log").addEventListener("change", (event) => {
    Plotly.relayout("plot", { "xaxis.type": event.target.checked ? "log" : "linear", "xaxis.autorange": true });
  });
  at("masked").addEventListener("change", showHeat);
  for (const id of ["one", "other"]) at(id).addEventListener("change", showDifferences);
  choose(0);
  showHeat();
  showDifferences();
})();
