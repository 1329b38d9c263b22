// How far each layer reaches to one side: range maximum and range assignment, both in logarithmic time.

class Skyline {
  constructor(extents) {
    this.size = 1;
    while (this.size < extents.length) this.size *= 2;
    this.top = new Float64Array(2 * this.size).fill(-Infinity);
    this.pending = new Float64Array(2 * this.size).fill(-Infinity);
    for (let i = 0; i < extents.length; i++) this.top[this.size + i] = extents[i];
    for (let i = this.size - 1; i > 0; i--) this.top[i] = Math.max(this.top[2 * i], this.top[2 * i + 1]);
  }

  // The farthest extent among layers `first` to `last`, both included.
  reach(first, last, node = 1, low = 0, high = this.size - 1) {
    if (last < low || high < first) return -Infinity;
    if (first <= low && high <= last) return this.top[node];
    const middle = (low + high) >> 1;
    const below = Math.max(this.reach(first, last, 2 * node, low, middle), this.reach(first, last, 2 * node + 1, middle + 1, high));
    return Math.max(this.pending[node], below);
  }

  // Let all of them reach at least as far as `extent`.
  raise(first, last, extent, node = 1, low = 0, high = this.size - 1) {
    if (last < low || high < first) return;
    this.top[node] = Math.max(this.top[node], extent);
    if (first <= low && high <= last) {
      this.pending[node] = Math.max(this.pending[node], extent);
      return;
    }
    const middle = (low + high) >> 1;
    this.raise(first, last, extent, 2 * node, low, middle);
    this.raise(first, last, extent, 2 * node + 1, middle + 1, high);
  }
}
