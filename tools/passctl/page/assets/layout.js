// A layered drawing in time close to linear: layers by longest path, what only constants feed right above its reader,
// places in a layer by weighted means, and edges over several layers as one rail beside the layers they pass.

const CARD = { width: 218, height: 62, gapX: 26, gapY: 46 };
const PITCH = CARD.height + CARD.gapY;
const RAIL = 13;

function layoutOf(graph, only) {
  const boxes = []; // {name, kind, node, x, y, layer, preds, succs}
  const byName = new Map();
  const add = (name, kind, node) => {
    const box = { name, kind, node, x: 0, y: 0, layer: 0, preds: [], succs: [], isSide: false, place: boxes.length };
    boxes.push(box);
    byName.set(name, box);
    return box;
  };
  const inputs = new Map(data.inputs.filter((input) => input.t !== undefined).map((input) => [input.n, input]));
  for (const input of inputs.values()) if (!only || [...only].some((name) => readsInput(graph.nodes.get(name), input.n))) add(input.n, "input", input);
  for (const name of graph.order) if (!only || only.has(name)) add(name, "node", graph.nodes.get(name));
  for (const box of [...boxes]) {
    if (box.kind !== "node") continue;
    const seen = new Set();
    eachReference(box.node, (reference) => {
      const from = reference[0] === "%" ? byName.get(reference.slice(1).replace(/#\d+$/, "")) : undefined;
      if (from && from !== box && !seen.has(from)) { seen.add(from); connect(from, box); }
    });
  }
  graph.outputs.forEach((output, place) => {
    const references = [output.v].flat(Infinity).filter((value) => typeof value === "string" && value[0] === "%");
    const from = references.map((reference) => byName.get(reference.slice(1).replace(/#\d+$/, ""))).filter(Boolean);
    if (!from.length) return;
    const box = add(`output ${place}`, "output", { n: `output ${place}`, v: output });
    for (const source of new Set(from)) connect(source, box);
  });
  assignLayers(boxes);
  const layers = [];
  for (const box of boxes) (layers[box.layer] ||= []).push(box);
  for (let layer = 0; layer < layers.length; layer++) layers[layer] ||= [];
  for (const [sweep, toward] of [[1, "preds"], [-1, "succs"], [1, "preds"], [-1, "succs"], [1, "preds"]]) arrange(layers, sweep, toward);
  for (const box of boxes) box.y = box.layer * PITCH;
  const rails = layRails(boxes, layers);
  let [left, right] = [Infinity, -Infinity];
  for (const box of boxes) { left = Math.min(left, box.x - CARD.width / 2); right = Math.max(right, box.x + CARD.width / 2); }
  for (const rail of rails) { left = Math.min(left, rail.x); right = Math.max(right, rail.x); }
  return { boxes, byName, layers, rails, left, right, top: 0, bottom: Math.max(1, layers.length) * PITCH - CARD.gapY };
}

function readsInput(node, name) {
  let found = false;
  if (node) eachReference(node, (reference) => { found ||= reference === `%${name}`; });
  return found;
}

function connect(from, to) {
  from.succs.push(to);
  to.preds.push(from);
}

function assignLayers(boxes) {
  // Execution order is topological; outputs come last.
  for (const box of boxes) {
    box.layer = 0;
    box.isSide = box.kind === "node" && box.preds.every((pred) => pred.isSide);
    for (const pred of box.preds) box.layer = Math.max(box.layer, pred.layer + 1);
  }
  for (let place = boxes.length - 1; place >= 0; place--) {
    const box = boxes[place];
    if ((box.isSide || box.kind === "input") && box.succs.length) box.layer = Math.min(...box.succs.map((succ) => succ.layer)) - 1;
  }
}

// Order a layer by the means of its neighbours, then give each the place nearest to that mean that leaves room for all.
function arrange(layers, sweep, toward) {
  for (let at = sweep > 0 ? 0 : layers.length - 1; at >= 0 && at < layers.length; at += sweep) {
    const layer = layers[at];
    if (!layer.length) continue;
    for (const box of layer) {
      let [sum, weight] = [0, 0];
      const isMain = (other) => !other.isSide;
      const others = box[toward].some(isMain) ? box[toward].filter(isMain) : box.isSide ? box[toward] : [];
      for (const other of others) {
        const each = 1 / Math.max(1, Math.abs(other.layer - box.layer));
        sum += other.x * each;
        weight += each;
      }
      box.wish = weight ? sum / weight : box.x;
      if (box.isSide && toward === "succs") box.wish += CARD.width * 0.6; // beside what flows from the inputs
    }
    layer.sort((a, b) => a.wish - b.wish || a.isSide - b.isSide || a.place - b.place);
    spread(layer);
  }
}

// Least squares under a minimum distance: pool adjacent violators.
function spread(layer) {
  const distance = CARD.width + CARD.gapX;
  const blocks = [];
  layer.forEach((box, place) => {
    const weight = box.isSide ? 1 : 1e6; // side boxes give way
    blocks.push({ first: place, count: 1, weight, mean: box.wish - place * distance });
    while (blocks.length > 1 && blocks[blocks.length - 2].mean >= blocks[blocks.length - 1].mean) {
      const last = blocks.pop(), block = blocks[blocks.length - 1];
      block.mean = (block.mean * block.weight + last.mean * last.weight) / (block.weight + last.weight);
      block.weight += last.weight;
      block.count += last.count;
    }
  });
  for (const block of blocks) for (let place = block.first; place < block.first + block.count; place++) layer[place].x = block.mean + place * distance;
}

// One rail for all far readers of a box; short ones lie inside long ones.
function layRails(boxes, layers) {
  const rails = [];
  for (const from of boxes) {
    const far = from.succs.filter((succ) => succ.layer > from.layer + 1);
    if (far.length) rails.push((from.rail = { from, far, first: from.layer + 1, last: Math.max(...far.map((succ) => succ.layer)) - 1, x: 0, slot: 0 }));
  }
  rails.sort((a, b) => a.last - a.first - (b.last - b.first) || a.from.place - b.from.place);
  const extent = (side) => layers.map((layer) => Math.max(-Infinity, ...layer.map((box) => side * box.x + CARD.width / 2)));
  const sides = { 1: new Skyline(extent(1)), [-1]: new Skyline(extent(-1)) };
  rails.forEach((rail, place) => {
    const middle = (rail.from.x + rail.far[rail.far.length - 1].x) / 2;
    const reach = (side) => Math.max(sides[side].reach(rail.first, rail.last), side * rail.from.x - CARD.width / 2 + 12);
    const side = reach(1) - middle < reach(-1) + middle ? 1 : -1;
    const out = reach(side) + RAIL;
    sides[side].raise(rail.first, rail.last, out);
    rail.x = side * out;
    rail.slot = place % 5;
  });
  return rails;
}

// The names at most `hops` steps from `name`, along operands and uses.
function neighbourhood(graph, name, hops) {
  const found = new Set([name]);
  let edge = [name];
  for (let hop = 0; hop < hops; hop++) {
    const next = [];
    for (const each of edge) {
      const reach = (other) => { if (graph.nodes.has(other) && !found.has(other)) { found.add(other); next.push(other); } };
      eachReference(graph.nodes.get(each), (reference) => { if (reference[0] === "%") reach(reference.slice(1).replace(/#\d+$/, "")); });
      for (const use of graph.uses.get(`%${each}`) || []) if (use.by !== null) reach(use.by);
    }
    edge = next;
  }
  return found;
}
