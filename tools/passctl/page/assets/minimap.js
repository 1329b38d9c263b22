// The whole graph in a strip: where the view is, where changes and matches are.

const minimap = byId("minimap"), miniPen = minimap.getContext("2d");
let miniature = null;

function forgetMiniature() {
  miniature = null;
}

function miniScale(width, height) {
  const { layout } = view, room = Math.max(CARD.width, layout.right - layout.left);
  const down = Math.min((height - 8) / layout.bottom, 0.16);
  return { across: Math.min((width - 8) / room, Math.max(down, 10 / CARD.width)), down, middle: (layout.left + layout.right) / 2 };
}

function drawMinimap() {
  const { width, height } = resizeCanvas(minimap, miniPen);
  if (!width || !height) return;
  const { across, down, middle } = miniScale(width, height), ratio = window.devicePixelRatio || 1;
  if (!miniature) {
    miniature = new OffscreenCanvas(minimap.width, minimap.height);
    const pen = miniature.getContext("2d");
    pen.scale(ratio, ratio);
    const dab = (box, colour, least) => {
      pen.fillStyle = colour;
      const wide = Math.max(2, CARD.width * across);
      pen.fillRect(width / 2 + (box.x - middle) * across - wide / 2, 4 + box.y * down, wide, Math.max(least, CARD.height * down));
    };
    pen.globalAlpha = 0.55;
    for (const box of view.layout.boxes) dab(box, palette[box.kind === "node" ? `k-${kindOf(box.node)}` : "k-io"], 0.6);
    pen.globalAlpha = 1;
    for (const box of view.layout.boxes) if (view.marks.has(box.name)) dab(box, palette[view.marks.get(box.name)], 1.6);
    if (view.matches) for (const box of view.layout.boxes) if (view.matches.has(box.name)) dab(box, palette.accent, 1.6);
  }
  miniPen.setTransform(1, 0, 0, 1, 0, 0);
  miniPen.drawImage(miniature, 0, 0);
  miniPen.setTransform(ratio, 0, 0, ratio, 0, 0);
  const seen = canvas.getBoundingClientRect();
  const top = 4 + (-view.panY / view.scale) * down, tall = Math.max(6, (seen.height / view.scale) * down);
  miniPen.strokeStyle = palette.accent;
  miniPen.lineWidth = 1.5;
  miniPen.globalAlpha = 0.14;
  miniPen.fillStyle = palette.accent;
  miniPen.fillRect(2, top, width - 4, tall);
  miniPen.globalAlpha = 1;
  miniPen.strokeRect(2, top, width - 4, tall);
  const chosen = view.selected && view.layout.byName.get(view.selected);
  if (chosen) {
    miniPen.fillStyle = palette.accent;
    miniPen.beginPath();
    miniPen.arc(width / 2 + (chosen.x - middle) * across, 4 + (chosen.y + CARD.height / 2) * down, 3, 0, 7);
    miniPen.fill();
  }
}

function followMinimap(event) {
  const box = minimap.getBoundingClientRect(), { down } = miniScale(box.width, box.height);
  const seen = canvas.getBoundingClientRect();
  view.panY = seen.height / 2 - ((event.clientY - box.top - 4) / down) * view.scale;
  redraw();
}

minimap.addEventListener("pointerdown", (event) => {
  minimap.setPointerCapture(event.pointerId);
  followMinimap(event);
});
minimap.addEventListener("pointermove", (event) => { if (event.buttons) followMinimap(event); });
