// What is shown, and what changes it.

const view = { step: 0, before: false, selected: null, hovered: null, isolated: null, hops: data.opening.hops, matches: null, marks: new Map(), scale: 1, panX: 0, panY: 0, graph: null, layout: null, drawn: 0 };
const timings = {};
const layouts = new Map();

function note(what, milliseconds) {
  (timings[what] ||= []).push(milliseconds);
}

function setStep(step, isBefore) {
  const start = performance.now();
  step = Math.min(data.steps.length - 1, Math.max(0, step));
  isBefore = isBefore && step > 0;
  const hasMoved = view.layout === null || step !== view.step;
  const anchor = view.layout && anchorBox();
  const where = anchor && centerOf(anchor);
  view.step = step;
  view.before = isBefore;
  view.graph = graphAt(isBefore ? step - 1 : step);
  const { added, changed, removed } = changesByStep[step];
  view.marks = new Map([...changed].map((name) => [name, "changed"]));
  for (const name of isBefore ? removed : added) view.marks.set(name, isBefore ? "removed" : "added");
  relayout();
  if (anchor) {
    const now = view.layout.byName.get(anchor.name);
    if (now) {
      view.panX = where.x - now.x * view.scale;
      view.panY = where.y - (now.y + CARD.height / 2) * view.scale;
    }
    if (hasMoved && !view.selected && step > 0 && view.marks.size && !view.layout.boxes.some((box) => view.marks.has(box.name) && isInView(box, 0))) stepToChange(1, false);
  }
  byId("before").disabled = step === 0;
  byId("before").setAttribute("aria-pressed", String(isBefore));
  byId("after").setAttribute("aria-pressed", String(!isBefore));
  markStep();
  filterOutline();
  showDetails();
  showLegend();
  remember();
  note("step", performance.now() - start);
}

// The box that stays where it is on the screen: the selected one if it can be seen, else the one nearest to the middle.
function anchorBox() {
  const chosen = view.selected && view.layout.byName.get(view.selected);
  if (chosen && isInView(chosen)) return chosen;
  const { width, height } = canvas.getBoundingClientRect();
  const goal = graphAt(view.step);
  let [best, least] = [null, Infinity];
  const [first, last] = visibleLayers(height);
  for (let layer = first; layer <= last; layer++) {
    for (const box of view.layout.layers[layer]) {
      const { x, y } = centerOf(box), far = (x - width / 2) ** 2 + (y - height / 2) ** 2 + (box.isSide ? 1e7 : 0) + (goal.nodes.has(box.name) ? 0 : 1e8);
      if (far < least) [best, least] = [box, far];
    }
  }
  return best;
}

function relayout() {
  if (view.isolated) {
    const name = view.isolated;
    view.layout = view.graph.nodes.has(name) ? layoutOf(view.graph, neighbourhood(view.graph, name, view.hops)) : layoutOf(view.graph, new Set());
  } else {
    if (!layouts.has(view.graph)) {
      const start = performance.now();
      if (layouts.size >= MOST_KEPT) layouts.delete(layouts.keys().next().value);
      layouts.set(view.graph, layoutOf(view.graph));
      note("layout", performance.now() - start);
    }
    view.layout = layouts.get(view.graph);
  }
  if (view.hovered && !view.layout.byName.has(view.hovered)) view.hovered = null;
  forgetMiniature();
  showNotice();
}

function select(name, { show = false } = {}) {
  const start = performance.now();
  view.selected = name;
  if (name && view.isolated && !view.layout.byName.has(name)) isolate(null);
  const box = name && view.layout.byName.get(name);
  if (box && show && !isInView(box, 70)) showBox(box);
  scrollToSelected();
  showDetails();
  showNotice();
  redraw();
  remember();
  note("select", performance.now() - start);
}

function showSelected() {
  const box = view.selected && view.layout.byName.get(view.selected);
  if (box) showBox(box);
}

function isolate(name) {
  view.isolated = name;
  view.selected ||= name;
  relayout();
  if (name) fit();
  else showSelected();
  filterOutline();
  showDetails();
}

function showNotice() {
  const notice = byId("notice"), name = view.isolated;
  const isMissing = view.selected && !view.graph.nodes.has(view.selected) && !view.layout.byName.has(view.selected);
  notice.hidden = !name && !isMissing;
  if (name) {
    const reach = (offset) => () => { view.hops = Math.max(0, view.hops + offset); isolate(name); };
    notice.replaceChildren(`${name} and ${plural(view.hops, "hop")} around it`, element("button", { type: "button", "aria-label": "Fewer hops", onclick: reach(-1) }, "−"), element("button", { type: "button", "aria-label": "More hops", onclick: reach(1) }, "+"), element("button", { type: "button", onclick: () => isolate(null) }, "Whole graph"));
  } else if (isMissing) notice.replaceChildren(`${view.selected} is not in this graph`, element("button", { type: "button", onclick: () => select(null) }, "Deselect"));
}

function showLegend() {
  const { added, changed, removed } = changesByStep[view.step];
  const kinds = new Set();
  for (const node of view.graph.nodes.values()) kinds.add(kindOf(node));
  const swatch = (colour, text) => { const dot = element("i"); dot.style.background = `var(--${colour})`; return element("span", {}, dot, text); };
  byId("legend").replaceChildren(...Object.keys(KINDS).filter((kind) => kinds.has(kind)).map((kind) => swatch(`k-${kind}`, KINDS[kind])),
    ...(!view.before && added.size ? [swatch("added", "added")] : []), ...(changed.size ? [swatch("changed", "changed")] : []), ...(view.before && removed.size ? [swatch("removed", "removed")] : []));
}

// The next or previous node that the step changed, from the selected one on.
function stepToChange(offset, isSelecting = true) {
  const names = view.graph.order.filter((name) => view.marks.has(name) && view.layout.byName.has(name));
  if (!names.length) return;
  const place = view.selected ? names.indexOf(view.selected) : -1;
  const name = names[(place + offset + names.length + (place < 0 && offset < 0 ? 1 : 0)) % names.length];
  if (isSelecting) select(name, { show: true });
  else showBox(view.layout.byName.get(name));
}

// To a neighbour of the selected box, as the arrows point.
function walk(key) {
  const box = view.selected && view.layout.byName.get(view.selected);
  if (!box) {
    const { height } = canvas.getBoundingClientRect(), [first] = visibleLayers(height);
    const start = view.layout.layers.slice(first + 1).find((layer) => layer.length) || view.layout.layers[0];
    if (start && start.length) select((start.find((each) => !each.isSide) || start[0]).name, { show: true });
    return;
  }
  const layer = view.layout.layers[box.layer], place = layer.indexOf(box);
  const nearest = (boxes) => [...boxes].sort((a, b) => a.isSide - b.isSide || Math.abs(a.layer - box.layer) - Math.abs(b.layer - box.layer) || Math.abs(a.x - box.x) - Math.abs(b.x - box.x))[0];
  const next = { ArrowUp: nearest(box.preds), ArrowDown: nearest(box.succs), ArrowLeft: layer[place - 1], ArrowRight: layer[place + 1] }[key];
  if (next) select(next.name, { show: true });
}

function searchFor(text) {
  search.value = text;
  filterOutline();
  list.scrollTop = 0;
  search.focus();
}

function remember() {
  const parts = [`step=${view.step}`];
  if (view.before) parts.push("before");
  if (view.selected) parts.push(`node=${encodeURIComponent(view.selected)}`);
  try { history.replaceState(null, "", `#${parts.join("&")}`); } catch { /* a page in a sandbox has no history */ }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  readPalette();
  forgetMiniature();
  redraw();
}

const GRAPH_KEYS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"];
const KEYS = {
  "/": ["search", () => { search.focus(); search.select(); }],
  "[": ["step before", () => setStep(view.step - 1, false)],
  "]": ["step after", () => setStep(view.step + 1, false)],
  b: ["graph before or after the step", () => setStep(view.step, !view.before)],
  n: ["next node the step changed", () => stepToChange(1)],
  p: ["previous node the step changed", () => stepToChange(-1)],
  i: ["surroundings of the selected node alone, or all", () => (view.isolated ? isolate(null) : view.selected && view.graph.nodes.has(view.selected) && isolate(view.selected))],
  Enter: ["centre the selected node", showSelected],
  f: ["the whole graph", () => fit()],
  0: ["full size", () => zoomCentred(1 / view.scale)],
  "+": ["larger", () => zoomCentred(1.25)],
  "-": ["smaller", () => zoomCentred(0.8)],
  t: ["light or dark", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark")],
  Escape: ["deselect", () => (view.isolated ? isolate(null) : select(null))],
  "?": ["these keys", () => byId("keys").showModal()],
};

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, dialog")) return;
  if (event.target.closest("button, summary") && (event.key === "Enter" || event.key === " ")) return;
  if (GRAPH_KEYS.includes(event.key)) {
    if (event.target !== canvas && event.target !== document.body) return;
    event.preventDefault();
    walk(event.key);
  } else if (KEYS[event.key === "=" ? "+" : event.key]) {
    event.preventDefault();
    KEYS[event.key === "=" ? "+" : event.key][1]();
  }
});

let drag = null;
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  drag = { x: event.clientX, y: event.clientY, panX: view.panX, panY: view.panY, hasMoved: false };
});
canvas.addEventListener("pointermove", (event) => {
  if (drag) {
    const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
    drag.hasMoved ||= Math.hypot(x, y) > 4;
    if (!drag.hasMoved) return;
    canvas.classList.add("panning");
    [view.panX, view.panY] = [drag.panX + x, drag.panY + y];
    hideTooltip();
    redraw();
    return;
  }
  hover(event.offsetX, event.offsetY);
});
canvas.addEventListener("pointerup", (event) => {
  const isClick = drag && !drag.hasMoved;
  drag = null;
  canvas.classList.remove("panning");
  if (isClick) {
    const box = boxAt(event.offsetX, event.offsetY);
    select(box ? box.name : null);
    canvas.focus();
  }
});
canvas.addEventListener("pointercancel", () => { drag = null; });
canvas.addEventListener("pointerleave", () => hover(-1, -1));
canvas.addEventListener("dblclick", (event) => {
  const box = boxAt(event.offsetX, event.offsetY);
  if (box && box.kind === "node" && !view.isolated) isolate(box.name);
});
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  hideTooltip();
  const unit = event.deltaMode === 1 ? 30 : 1;
  if (event.ctrlKey || event.metaKey) zoom(Math.exp(-event.deltaY * unit * 0.0035), event.offsetX, event.offsetY);
  else {
    view.panX -= (event.shiftKey ? event.deltaY : event.deltaX) * unit;
    view.panY -= (event.shiftKey ? 0 : event.deltaY) * unit;
    redraw();
  }
}, { passive: false });

function hover(x, y) {
  const box = x < 0 ? null : boxAt(x, y), name = box ? box.name : null;
  if (name === view.hovered) return;
  view.hovered = name;
  canvas.classList.toggle("over", Boolean(box));
  const tip = byId("tooltip");
  tip.hidden = !box || box.kind !== "node";
  if (!tip.hidden) {
    tip.replaceChildren(element("strong", {}, box.name), ` ${box.node.o}`, element("small", { class: "mono" }, typeOf(box.node)), modulePath(box.node) && element("small", {}, modulePath(box.node)));
    const { width } = canvas.getBoundingClientRect(), { x: middle, y: centre } = centerOf(box);
    tip.style.left = `${Math.min(Math.max(8, middle - 100), width - 400)}px`;
    tip.style.top = `${centre + (CARD.height / 2) * view.scale + 8}px`;
    if (view.scale > 0.75) tip.hidden = true; // the card says it all
  }
  redraw();
}

function hideTooltip() {
  byId("tooltip").hidden = true;
}

byId("before").addEventListener("click", () => setStep(view.step, true));
byId("after").addEventListener("click", () => setStep(view.step, false));
byId("theme").addEventListener("click", KEYS.t[1]);
byId("help").addEventListener("click", KEYS["?"][1]);
byId("zoom-in").addEventListener("click", KEYS["+"][1]);
byId("zoom-out").addEventListener("click", KEYS["-"][1]);
byId("zoom-level").addEventListener("click", KEYS[0][1]);
byId("fit").addEventListener("click", () => fit());
byId("keys").append(element("h2", {}, "Keys"), pairs([...Object.entries(KEYS).map(([key, [what]]) => [element("kbd", {}, key), what]), [element("kbd", {}, "↑ ↓ ← →"), "in the graph: to what a node reads, what reads it, its neighbours"],
  [element("kbd", {}, "wheel"), "move; with Ctrl larger or smaller"], [element("kbd", {}, "double click"), "surroundings of a node alone"]]), element("form", { method: "dialog", class: "actions" }, element("button", {}, "Close")));
byId("keys").addEventListener("click", (event) => { if (event.target === byId("keys")) byId("keys").close(); });
new ResizeObserver(() => { forgetMiniature(); addRows(); redraw(); }).observe(stage);
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
prefersDark.addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));

function open() {
  document.documentElement.dataset.theme = prefersDark.matches ? "dark" : "light";
  readPalette();
  byId("title").textContent = data.title;
  const total = data.steps.reduce((sum, step) => sum + (step.seconds || 0), 0);
  byId("subtitle").textContent = [data.pipeline, plural(data.steps.length - 1, "step"), total ? seconds(total) : ""].filter(Boolean).join(" · ");
  buildTimeline();
  const asked = new URLSearchParams(location.hash.slice(1));
  const isAsked = asked.has("step");
  const { focus } = data.opening;
  if (focus) [view.selected, view.isolated] = [focus, focus];
  const last = data.steps.length - 1 - [...data.steps].reverse().findIndex((step) => step.error || Object.keys(step.delta).length);
  setStep(isAsked ? Number(asked.get("step")) || 0 : last, isAsked && asked.has("before"));
  fit(!focus);
  const node = asked.get("node");
  if (node) select(node, { show: true });
  redraw();
}

// For tests and for the console: what is shown, and how long things took.
window.passctl = {
  view, timings, data, graphAt, select, setStep, isolate, fit,
  place: (name) => {
    const box = view.layout.byName.get(name), { left, top } = canvas.getBoundingClientRect();
    return box ? { x: centerOf(box).x + left, y: centerOf(box).y + top } : null;
  },
};
open();
