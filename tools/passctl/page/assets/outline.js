// The nodes as a list, and the search. Only the rows in view are in the document.

const list = byId("list"), listSpace = byId("list-space"), search = byId("search");
const ROW = 40;
let rows = [];

function filterOutline() {
  const start = performance.now();
  const terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const isMatch = (node) => { const text = haystack(node); return terms.every((term) => text.includes(term)); };
  const isChangedOnly = byId("only-changed").checked;
  rows = [];
  for (const node of view.graph.nodes.values()) if (isMatch(node) && (!isChangedOnly || view.marks.has(node.n))) rows.push({ node, mark: view.marks.get(node.n) });
  if (isChangedOnly && !view.before && view.step > 0) {
    const before = graphAt(view.step - 1);
    for (const name of changesByStep[view.step].removed) if (isMatch(before.nodes.get(name))) rows.push({ node: before.nodes.get(name), mark: "removed", isGone: true });
  }
  view.matches = terms.length || isChangedOnly ? new Set(rows.map((row) => row.node.n)) : null;
  view.terms = terms;
  byId("count").textContent = view.matches ? `${rows.length.toLocaleString("en")} of ${plural(view.graph.order.length, "node")}` : plural(view.graph.order.length, "node");
  listSpace.style.height = `${rows.length * ROW + 12}px`;
  forgetMiniature();
  drawRows();
  redraw();
  note("search", performance.now() - start);
}

const drawnRows = new Map(); // place -> element

function drawRows() {
  drawnRows.clear();
  listSpace.replaceChildren();
  addRows();
}

// Rows that stay in view stay the same elements, so that a click survives a scroll.
function addRows() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4), last = Math.min(rows.length, first + Math.ceil(list.clientHeight / ROW) + 8);
  for (const [place, row] of drawnRows) {
    if (place >= first && place < last) continue;
    row.remove();
    drawnRows.delete(place);
  }
  for (let place = first; place < last; place++) {
    if (drawnRows.has(place)) continue;
    const row = rowElement(place);
    drawnRows.set(place, row);
    listSpace.append(row);
  }
  const chosen = rows.findIndex((row) => row.node.n === view.selected);
  if (drawnRows.has(chosen)) list.setAttribute("aria-activedescendant", `row-${chosen}`);
  else list.removeAttribute("aria-activedescendant");
}

function rowElement(place) {
  const { node, mark } = rows[place];
  const row = element("div", { class: `row ${mark || ""}`, role: "option", id: `row-${place}`, "aria-selected": String(node.n === view.selected), "aria-setsize": rows.length, "aria-posinset": place + 1 },
    element("div", { class: "name" }, marked(node.n)),
    element("div", { class: "path" }, element("bdi", {}, marked(modulePath(node) || shortOp(node.o)))));
  row.style.top = `${place * ROW + 6}px`;
  return row;
}

// The text with the first search term marked.
function marked(text) {
  const term = (view.terms || []).find((each) => text.toLowerCase().includes(each));
  if (!term) return text;
  const at = text.toLowerCase().indexOf(term);
  return [text.slice(0, at), element("mark", {}, text.slice(at, at + term.length)), text.slice(at + term.length)];
}

function scrollToSelected() {
  const place = rows.findIndex((row) => row.node.n === view.selected);
  if (place >= 0) {
    const top = place * ROW + 6;
    if (top < list.scrollTop + 6 || top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = Math.max(0, top - list.clientHeight / 2);
  }
  drawRows();
}

function stepInList(offset) {
  if (!rows.length) return;
  const place = rows.findIndex((row) => row.node.n === view.selected);
  const next = place < 0 ? (offset > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, place + offset));
  pickRow(next);
}

function pickRow(place) {
  const { node, isGone } = rows[place];
  if (isGone) setStep(view.step, true);
  select(node.n, { show: true });
}

const LIST_KEYS = { ArrowDown: () => stepInList(1), ArrowUp: () => stepInList(-1), PageDown: () => stepInList(10), PageUp: () => stepInList(-10), Home: () => rows.length && pickRow(0), End: () => rows.length && pickRow(rows.length - 1) };

search.addEventListener("input", filterOutline);
byId("only-changed").addEventListener("change", filterOutline);
list.addEventListener("scroll", addRows);
list.addEventListener("click", (event) => {
  const row = event.target.closest(".row");
  if (row) pickRow(Number(row.id.slice(4)));
});
list.addEventListener("keydown", (event) => {
  if (!LIST_KEYS[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  LIST_KEYS[event.key]();
});
search.addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === "ArrowDown") stepInList(event.shiftKey ? -1 : 1);
  else if (event.key === "ArrowUp") stepInList(-1);
  else if (event.key === "Escape") { search.value = ""; filterOutline(); canvas.focus(); }
  else return;
  event.preventDefault();
});
