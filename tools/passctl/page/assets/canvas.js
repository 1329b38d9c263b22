// Draws the part of the graph that is in view, and finds what lies under a point.

const stage = byId("stage"), canvas = byId("graph"), pen = canvas.getContext("2d");
const SCALES = { least: 0.03, most: 2.5 };
let palette = {};
let isDirty = false;

function readPalette() {
  const style = getComputedStyle(document.documentElement);
  const names = ["bg", "panel", "text", "dim", "faint", "line", "accent", "accent-soft", "card", "card-line", "edge", "edge-strong", "added", "added-soft", "changed",
    "changed-soft", "removed", "removed-soft", "k-layer", "k-quant", "k-backend", "k-fold", "k-io", "k-other", "line-strong"];
  palette = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  palette.sans = style.getPropertyValue("--sans");
  palette.mono = style.getPropertyValue("--mono");
}

function redraw() {
  if (isDirty || !view.layout) return;
  isDirty = true;
  requestAnimationFrame(() => {
    isDirty = false;
    const start = performance.now();
    draw();
    drawMinimap();
    note("draw", performance.now() - start);
  });
}

function resizeCanvas(target, context) {
  const ratio = window.devicePixelRatio || 1;
  const { width, height } = target.getBoundingClientRect();
  if (target.width !== Math.round(width * ratio) || target.height !== Math.round(height * ratio)) {
    target.width = Math.round(width * ratio);
    target.height = Math.round(height * ratio);
  }
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { width, height };
}

function visibleLayers(height) {
  const first = Math.floor(-view.panY / view.scale / PITCH) - 1;
  const last = Math.ceil((height - view.panY) / view.scale / PITCH) + 1;
  return [Math.max(0, first), Math.min(view.layout.layers.length - 1, last)];
}

function draw() {
  const { width, height } = resizeCanvas(canvas, pen);
  const { layout } = view;
  const [first, last] = visibleLayers(height);
  const left = -view.panX / view.scale - CARD.width, right = (width - view.panX) / view.scale + CARD.width;
  const base = first * PITCH; // near the origin, where the canvas keeps fractions of a pixel
  pen.save();
  pen.translate(view.panX, view.panY + base * view.scale);
  pen.scale(view.scale, view.scale);
  const lit = view.hovered || view.selected;
  pen.lineWidth = Math.max(1.3, 0.8 / view.scale);
  pen.strokeStyle = palette.edge;
  pen.beginPath();
  for (const edge of edgesBetween(first, last, left, right)) if (edge.from.name !== lit && edge.to.name !== lit) trace(edge, base);
  pen.stroke();
  pen.lineWidth = Math.max(2.2, 1.4 / view.scale);
  pen.strokeStyle = palette["edge-strong"];
  pen.beginPath();
  if (lit) for (const edge of edgesBetween(first, last, -Infinity, Infinity)) if (edge.from.name === lit || edge.to.name === lit) trace(edge, base);
  pen.stroke();
  let drawn = 0;
  for (let layer = first; layer <= last; layer++) {
    for (const box of layout.layers[layer]) {
      if (box.x < left || box.x > right) continue;
      drawBox(box, box.x - CARD.width / 2, box.y - base);
      drawn++;
    }
  }
  pen.restore();
  view.drawn = drawn;
}

function* edgesBetween(first, last, left, right) {
  const { layout } = view;
  for (let layer = Math.max(1, first); layer <= Math.min(last + 1, layout.layers.length - 1); layer++) {
    for (const to of layout.layers[layer]) {
      for (const from of to.preds) {
        if (from.layer !== layer - 1) continue;
        if (Math.max(from.x, to.x) >= left && Math.min(from.x, to.x) <= right) yield { from, to };
      }
    }
  }
  for (const rail of layout.rails) {
    if (rail.last + 1 < first || rail.first - 1 > last) continue;
    for (const to of rail.far) if (to.layer >= first && rail.first - 1 <= last) yield { from: rail.from, to, rail };
  }
}

// Where an edge enters: what flows from the inputs in the middle, so that it goes straight down; the rest in order of place.
function port(box, from) {
  if (box.preds.length < 2) return box.x;
  box.ports ||= portsOf(box);
  return box.ports.get(from);
}

function portsOf(box) {
  const at = (pred) => (pred.rail && pred.layer < box.layer - 1 ? pred.rail.x : pred.x);
  const sorted = [...box.preds].sort((a, b) => at(a) - at(b));
  const main = sorted.filter((pred) => !pred.isSide), room = CARD.width * 0.8;
  const middle = main.length === 1 ? sorted.indexOf(main[0]) : (sorted.length - 1) / 2;
  const gap = Math.min(30, room / 2 / Math.max(middle, sorted.length - 1 - middle));
  return new Map(sorted.map((pred, place) => [pred, box.x + (place - middle) * gap]));
}

function trace({ from, to, rail }, base) {
  const startY = from.y + CARD.height - base, endY = to.y - base, endX = port(to, from);
  pen.moveTo(from.x, startY);
  if (!rail) {
    const middle = (startY + endY) / 2;
    pen.bezierCurveTo(from.x, middle, endX, middle, endX, endY);
    return;
  }
  const leave = startY + 9 + rail.slot * 3.5, enter = endY - 9 - rail.slot * 3.5, round = 7;
  pen.arcTo(from.x, leave, rail.x, leave, round);
  pen.arcTo(rail.x, leave, rail.x, enter, round);
  pen.arcTo(rail.x, enter, endX, enter, round);
  pen.arcTo(endX, enter, endX, endY, round);
  pen.lineTo(endX, endY);
}

function drawBox(box, x, y) {
  const mark = view.marks.get(box.name);
  const isSelected = box.name === view.selected, isHovered = box.name === view.hovered;
  const isPill = box.kind !== "node";
  pen.globalAlpha = view.matches && !view.matches.has(box.name) && !isSelected ? 0.28 : 1;
  pen.beginPath();
  if (view.scale < 0.12) pen.rect(x, y, CARD.width, CARD.height);
  else pen.roundRect(x, y, CARD.width, CARD.height, isPill ? CARD.height / 2 : 9);
  pen.fillStyle = mark ? palette[`${mark}-soft`] : palette.card;
  const stripe = palette[isPill ? "k-io" : `k-${kindOf(box.node)}`];
  if (view.scale < 0.2) pen.fillStyle = mark ? palette[mark] : stripe;
  pen.fill();
  pen.lineWidth = isSelected ? 3 : isHovered || mark ? 1.8 : 1.2;
  pen.strokeStyle = isSelected || isHovered ? palette.accent : mark ? palette[mark] : palette["card-line"];
  if (isSelected) pen.lineWidth = Math.max(3, 2 / view.scale);
  pen.stroke();
  if (view.scale >= 0.2) {
    if (!isPill) {
      pen.fillStyle = stripe;
      pen.beginPath();
      pen.roundRect(x + 7, y + 10, 4, CARD.height - 20, 2);
      pen.fill();
    }
    if (view.scale < 0.42) drawTitle(box, x, y);
    else if (isPill) drawPill(box, x, y);
    else drawCard(box, x, y);
  }
  pen.globalAlpha = 1;
}

function drawTitle(box, x, y) {
  pen.font = `600 25px ${palette.sans}`;
  pen.fillStyle = palette.text;
  pen.textBaseline = "middle";
  pen.textAlign = "left";
  pen.fillText(fitted(box.kind === "node" ? shortOp(box.node.o) : box.name, CARD.width - 34), x + 20, y + CARD.height / 2 + 1);
}

function drawPill(box, x, y) {
  pen.textAlign = "center";
  pen.textBaseline = "alphabetic";
  pen.fillStyle = palette.text;
  pen.font = `600 13px ${palette.sans}`;
  pen.fillText(fitted(box.name, CARD.width - 50), x + CARD.width / 2, y + 27);
  pen.font = `11.5px ${palette.mono}`;
  pen.fillStyle = palette.dim;
  const text = box.kind === "input" ? pool[box.node.t] : box.node.v.k === "user" ? "returned" : box.node.v.k.replace("_", " ");
  pen.fillText(fitted(text, CARD.width - 40), x + CARD.width / 2, y + 45);
}

function drawCard(box, x, y) {
  const node = box.node, inner = x + 20, room = CARD.width - 32;
  pen.textBaseline = "alphabetic";
  pen.textAlign = "left";
  pen.font = `600 13px ${palette.sans}`;
  pen.fillStyle = palette.text;
  const op = fitted(shortOp(node.o), room);
  pen.fillText(op, inner, y + 20);
  const used = pen.measureText(op).width;
  if (node.n !== op && room - used > 40) {
    pen.font = `11.5px ${palette.sans}`;
    pen.fillStyle = palette.faint;
    pen.textAlign = "right";
    pen.fillText(fitted(node.n, room - used - 12), x + CARD.width - 12, y + 20);
    pen.textAlign = "left";
  }
  pen.font = `11.8px ${palette.sans}`;
  pen.fillStyle = palette.dim;
  pen.fillText(fitted(modulePath(node) || "–", room, true), inner, y + 36);
  pen.font = `11px ${palette.mono}`;
  const storage = node.o.startsWith("quant.") && node.a && node.a.dtype ? `${node.a.dtype} in ` : "";
  pen.fillText(fitted(storage + typeOf(node), room), inner, y + 52);
}

const fits = new Map();
function fitted(text, room, keepEnd = false) {
  const key = `${pen.font}|${Math.round(room)}|${text}`;
  let made = fits.get(key);
  if (made !== undefined) return made;
  made = text;
  if (pen.measureText(text).width > room) {
    let [low, high] = [0, text.length];
    const cut = (length) => (keepEnd ? `…${text.slice(text.length - length)}` : `${text.slice(0, length)}…`);
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (pen.measureText(cut(middle)).width <= room) low = middle;
      else high = middle - 1;
    }
    made = cut(low);
  }
  if (fits.size > 40000) fits.clear();
  fits.set(key, made);
  return made;
}

function boxAt(screenX, screenY) {
  const x = (screenX - view.panX) / view.scale, y = (screenY - view.panY) / view.scale;
  const layer = view.layout.layers[Math.floor(y / PITCH)];
  if (!layer) return null;
  return layer.find((box) => Math.abs(box.x - x) <= CARD.width / 2 && y >= box.y && y <= box.y + CARD.height) || null;
}

function centerOf(box) {
  return { x: box.x * view.scale + view.panX, y: (box.y + CARD.height / 2) * view.scale + view.panY };
}

function isInView(box, margin = 30) {
  const { width, height } = canvas.getBoundingClientRect(), { x, y } = centerOf(box);
  return x > margin && y > margin && x < width - margin && y < height - margin;
}

function showBox(box) {
  const { width, height } = canvas.getBoundingClientRect();
  if (view.scale < 0.45) view.scale = 0.8;
  view.panX = width / 2 - box.x * view.scale;
  view.panY = height / 2 - (box.y + CARD.height / 2) * view.scale;
  redraw();
}

function zoom(factor, atX, atY) {
  const scale = Math.min(SCALES.most, Math.max(SCALES.least, view.scale * factor));
  view.panX = atX - ((atX - view.panX) * scale) / view.scale;
  view.panY = atY - ((atY - view.panY) * scale) / view.scale;
  view.scale = scale;
  byId("zoom-level").textContent = `${Math.round(scale * 100)}%`;
  redraw();
}

function zoomCentred(factor) {
  const { width, height } = canvas.getBoundingClientRect();
  zoom(factor, width / 2, height / 2);
}

function fit(isOpening = false) {
  const { width, height } = canvas.getBoundingClientRect(), { layout } = view, margin = 36;
  const whole = Math.min((width - 2 * margin) / (layout.right - layout.left), (height - 2 * margin) / layout.bottom, 1);
  const isReadable = whole >= 0.5 || !isOpening;
  view.scale = Math.min(SCALES.most, Math.max(SCALES.least, isReadable ? whole : 0.9));
  const middle = isReadable ? (layout.left + layout.right) / 2 : layout.boxes.length ? layout.boxes[0].x : 0;
  view.panX = width / 2 - middle * view.scale;
  view.panY = isReadable ? Math.max(margin, (height - layout.bottom * view.scale) / 2) : margin;
  zoom(1, 0, 0);
}
