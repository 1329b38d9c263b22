// The run: the graph at every step, rebuilt from what each step changed, and what two steps differ in.

const data = JSON.parse(byId("data").textContent);
const pool = data.pool;

class Graph {
  constructor(nodes, constants, outputs) {
    this.nodes = nodes; // name -> record, in execution order
    this.constants = constants;
    this.outputs = outputs;
    this.order = [...nodes.keys()];
    this._uses = null;
  }

  // Every use of every value: reference without `%` or `@` -> [{by, operand}].
  get uses() {
    if (this._uses) return this._uses;
    const uses = new Map();
    const note = (reference, by, operand) => {
      const key = reference.replace(/#\d+$/, "");
      if (!uses.has(key)) uses.set(key, []);
      uses.get(key).push({ by, operand, result: reference.slice(key.length + 1) });
    };
    for (const node of this.nodes.values()) eachReference(node, (reference, operand) => note(reference, node.n, operand));
    this.outputs.forEach((output, place) => {
      const visit = (value) => { if (typeof value === "string") note(value, null, `output ${place}`); else if (Array.isArray(value)) value.forEach(visit); };
      visit(output.v);
      if (output.w) note(output.w, null, `written by output ${place}`);
    });
    return (this._uses = uses);
  }
}

function eachReference(node, visit) {
  for (const [operand, value] of node.i || []) {
    if (typeof value === "string") visit(value, operand);
    else if (Array.isArray(value)) value.forEach((item, place) => { if (typeof item === "string") visit(item, `${operand}[${place}]`); });
  }
}

const graphs = new Map();
const MOST_KEPT = 24;

function graphAt(step) {
  if (graphs.has(step)) return graphs.get(step);
  let from = step;
  while (from > 0 && !graphs.has(from)) from--;
  let graph = graphs.get(from) || apply(new Graph(new Map(), new Map(), []), data.steps[0].delta);
  for (let next = from + 1; next <= step; next++) graph = apply(graph, data.steps[next].delta);
  if (graphs.size >= MOST_KEPT) graphs.delete([...graphs.keys()].find((key) => key !== 0));
  graphs.set(step, graph);
  return graph;
}

function apply(before, delta) {
  if (!delta) return before;
  const fresh = new Map((delta.nodes || []).map((node) => [node.n, node]));
  const order = [];
  if (delta.order) {
    for (const run of delta.order) {
      if (typeof run === "string") order.push(run);
      else for (let place = run[0]; place < run[0] + run[1]; place++) order.push(before.order[place]);
    }
  } else if (!delta.gone) order.push(...before.order);
  const nodes = new Map(order.map((name) => [name, fresh.get(name) || before.nodes.get(name)]));
  const constants = new Map(before.constants);
  for (const name of delta.goneConstants || []) constants.delete(name);
  for (const constant of delta.constants || []) constants.set(constant.n, constant);
  return new Graph(nodes, constants, delta.outputs || before.outputs);
}

// What a step did to nodes: {added, changed, removed}, sets of names. The captured graph is new as a whole, so nothing of it is marked.
const changesByStep = data.steps.map((step, place) => {
  const made = { added: new Set(), changed: new Set(), removed: new Set() };
  if (place === 0 || !step.delta) return made;
  const newcomers = new Set((step.delta.order || []).filter((run) => typeof run === "string"));
  for (const node of step.delta.nodes || []) made[newcomers.has(node.n) ? "added" : "changed"].add(node.n);
  made.removed = new Set(step.delta.gone || []);
  return made;
});

const originOf = (node) => (node.l && node.l.length ? pool[node.l[0]] : null);
const modulePath = (node) => (originOf(node) || [""])[0];
const typeOf = (node) => (node.t || []).map((place) => pool[place]).join(", ");
const shortOp = (op) => op.replace(/^aten\./, "").replace(/\.(Tensor|Scalar|default)$/, "");

// All that a search looks through, in lower case.
const haystacks = new WeakMap();
function haystack(node) {
  if (!haystacks.has(node)) {
    const places = (node.l || []).map((place) => pool[place].slice(0, 2).join(" "));
    const constants = [];
    eachReference(node, (reference) => { if (reference[0] === "@") constants.push(reference); });
    haystacks.set(node, [node.n, node.o, ...places, ...constants, ...Object.keys(node.x || {})].join("\n").toLowerCase());
  }
  return haystacks.get(node);
}

function kindOf(node) {
  const op = node.o;
  if (op.startsWith("quant.")) return "quant";
  if (op.startsWith("coreai.") || op.startsWith("coreml_metadata.")) return "backend";
  if (op.startsWith("fold.")) return "fold";
  return /^aten\.(_?conv|linear|matmul|mm|bmm|addmm|baddbmm|embedding|einsum|scaled_dot|lstm|gru|rnn|bilinear)/.test(op) ? "layer" : "other";
}
const KINDS = { layer: "layers", quant: "quantization", fold: "folding", backend: "backend ops", other: "other ops" };
