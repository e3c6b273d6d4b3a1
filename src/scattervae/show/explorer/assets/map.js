"use strict";
// The map: our own pixels under a figure of BokehJS, which draws the axes and takes the gestures.
// 200,000 points take 3 ms a frame here, and 2 to 4 s as glyphs without a graphics card.
const CATEGORY_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c6bb1", "#a6761d", "#666666", "#1b9e77", "#b2df8a", "#fb9a99"];
const CELL = 6; // pixels of a cell of the density

const pixel = (hex, alpha = 255) => { const v = parseInt(hex.slice(1), 16); return ((alpha << 24) | ((v & 255) << 16) | (v & 0xff00) | (v >> 16)) >>> 0; };

class StarMap {
  constructor(stars, { onView, onTap, onShape }) {
    Object.assign(this, { stars, onView, onTap, onShape, x: null, y: null, chosen: new Uint8Array(stars.n).fill(1), marks: [], paths: [], pending: false, silent: false });
    this.shade = new Uint32Array(stars.n);
    this.canvas = document.getElementById("points");
  }

  async begin() {
    this.entry = await Plots.figure(document.getElementById("map-plot"), { x: "", y: "", tools: "pan,wheel_zoom,box_select,lasso_select,tap", x_range: new Bokeh.Range1d({ start: 0, end: 1 }), y_range: new Bokeh.Range1d({ start: 0, end: 1 }) });
    const { figure } = this.entry, tool = (type) => figure.toolbar.tools.find((t) => t.type === type);
    this.tools = { pan: tool("PanTool"), box: tool("BoxSelectTool"), lasso: tool("LassoSelectTool") };
    tool("WheelZoomTool").active = true;
    this.entry.recolour = ((before) => () => { before(); this.draw(); })(this.entry.recolour);
    for (const range of [figure.x_range, figure.y_range]) range.change.connect(() => { this.draw(); if (!this.silent) this.onView(); });
    figure.on_event("tap", (event) => this.onTap(this.nearest(event.x, event.y)));
    figure.on_event("selectiongeometry", (event) => {
      const g = event.geometry;
      if (g.type === "point") return;
      clearTimeout(this.waiting);
      this.waiting = setTimeout(() => {
        const rect = g.type === "rect";
        const px = rect ? [g.x0, g.x1, g.x1, g.x0] : Array.from(g.x), py = rect ? [g.y0, g.y0, g.y1, g.y1] : Array.from(g.y);
        if (px.length > 2) this.onShape(px, py);
      }, 120);
    });
    new ResizeObserver(() => setTimeout(() => this.draw(), 50)).observe(document.getElementById("map"));
  }

  drag(kind) { for (const [name, tool] of Object.entries(this.tools)) tool.active = name === kind; }

  get view() { const { x_range: x, y_range: y } = this.entry.figure; return [x.start, x.end, y.start, y.end]; }
  set view([x0, x1, y0, y1]) {
    this.silent = true;
    this.entry.figure.x_range.setv({ start: x0, end: x1 });
    this.entry.figure.y_range.setv({ start: y0, end: y1 });
    this.silent = false;
    this.draw();
  }

  /** A view of 99.6 % of the stars with a margin; magnitudes, log g and Teff run as astronomers draw them. */
  static wholeRange(values, name, axis) {
    const known = values.filter(Number.isFinite).sort();
    let low = 0, high = 1;
    if (known.length) { low = known[Math.floor(0.002 * (known.length - 1))]; high = known[Math.ceil(0.998 * (known.length - 1))]; }
    const margin = high > low ? 0.08 * (high - low) : 0.5;
    const flipped = axis === "x" ? name === "teff" : /logg$|_mag$/.test(name);
    return flipped ? [high + margin, low - margin] : [low - margin, high + margin];
  }

  axes(x, y, names) {
    Object.assign(this, { x, y });
    const { figure } = this.entry;
    figure.below[0].axis_label = names[0];
    figure.left[0].axis_label = names[1];
  }

  draw() {
    if (this.pending || !this.x) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.render(); });
  }

  render() {
    const { left, top, width, height } = this.entry.view.frame.bbox, ratio = Math.min(window.devicePixelRatio || 1, 2);
    const w = Math.max(Math.round(width * ratio), 1), h = Math.max(Math.round(height * ratio), 1);
    Object.assign(this.canvas.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
    if (this.canvas.width !== w || this.canvas.height !== h) { this.canvas.width = w; this.canvas.height = h; }
    const context = this.canvas.getContext("2d"), [x0, x1, y0, y1] = this.view, sx = w / (x1 - x0), sy = h / (y1 - y0);
    const at = this.places(x0, sx, y0, sy, w, h);
    context.clearRect(0, 0, w, h);
    this.density(context, at, w, h, Math.round(CELL * ratio));
    context.drawImage(this.layer(1, w, h, (pixels) => this.points(pixels, at, w, h, ratio)), 0, 0);
    this.drawMarks(context, (x, y) => [(x - x0) * sx, h - (y - y0) * sy], ratio);
  }

  /** The pixel of each star, -1 outside. */
  places(x0, sx, y0, sy, w, h) {
    const { x, y } = this, n = x.length, at = (this.at ??= new Int32Array(n));
    for (let i = 0; i < n; i++) {
      const px = (x[i] - x0) * sx, py = h - (y[i] - y0) * sy;
      at[i] = px >= 0 && py >= 0 && px < w && py < h ? (py | 0) * w + (px | 0) : -1;
    }
    return at;
  }

  /** A canvas of our own, its pixels as `draw` sets them. */
  layer(index, w, h, draw) {
    const canvas = ((this.layers ??= [])[index] ??= document.createElement("canvas"));
    canvas.width = w;
    canvas.height = h;
    const context = canvas.getContext("2d"), image = context.createImageData(w, h);
    draw(new Uint32Array(image.data.buffer));
    context.putImageData(image, 0, 0);
    return canvas;
  }

  /** How many stars of the catalogue lie in each cell, as a smooth wash of the page's ink. */
  density(context, at, w, h, cell) {
    const columns = Math.ceil(w / cell), rows = Math.ceil(h / cell), cells = new Float32Array(columns * rows), { weights } = this.stars;
    for (let i = 0; i < at.length; i++) {
      if (at[i] >= 0) cells[((at[i] / w / cell) | 0) * columns + (((at[i] % w) / cell) | 0)] += weights[i];
    }
    const most = Math.log1p(cells.reduce((a, b) => Math.max(a, b), 0)) || 1, ink = Plots.colour("ink");
    const washes = Uint32Array.from({ length: 33 }, (_, k) => pixel(ink, k ? 14 + 3 * k : 0));
    const layer = this.layer(0, columns, rows, (pixels) => { for (let i = 0; i < cells.length; i++) pixels[i] = washes[Math.ceil((32 * Math.log1p(cells[i])) / most)]; });
    context.drawImage(layer, 0, 0, columns * cell, rows * cell);
  }

  points(pixels, at, w, h, ratio) {
    let inside = 0;
    for (let i = 0; i < at.length; i++) inside += at[i] >= 0;
    const radius = (inside > 60000 ? 0.8 : inside > 8000 ? 1.2 : inside > 800 ? 2 : 4) * ratio, r = Math.floor(radius), disc = [];
    for (let dy = -r; dy <= r; dy++) for (let dx = -r; dx <= r; dx++) if (dx * dx + dy * dy <= radius * radius) disc.push([dx, dy]);
    const grey = pixel(Plots.colour("grey"));
    for (const wanted of [0, 1]) {
      for (let i = 0; i < at.length; i++) {
        if (at[i] < 0 || this.chosen[i] !== wanted) continue;
        const px = at[i] % w, py = (at[i] / w) | 0, shade = wanted ? this.shade[i] : grey;
        for (const [dx, dy] of disc) {
          const column = px + dx, row = py + dy;
          if (column >= 0 && row >= 0 && column < w && row < h) pixels[row * w + column] = shade;
        }
      }
    }
  }

  drawMarks(context, place, ratio) {
    const ink = Plots.colour("ink"), page = Plots.colour("page"), second = Plots.colour("second");
    for (const { points } of this.paths) {
      context.beginPath();
      points.forEach(([x, y], i) => context[i ? "lineTo" : "moveTo"](...place(x, y)));
      context.strokeStyle = second; context.lineWidth = 2 * ratio; context.setLineDash([6 * ratio, 4 * ratio]); context.stroke(); context.setLineDash([]);
    }
    for (const { x, y, kind } of this.marks) {
      if (!Number.isFinite(x) || !Number.isFinite(y)) continue;
      const [px, py] = place(x, y), size = (kind === "neighbour" ? 6 : 9) * ratio;
      for (const [colour, width] of [[page, 5], [kind === "star" || kind === "neighbour" ? ink : second, kind === "neighbour" ? 1.5 : 2.5]]) {
        context.strokeStyle = colour; context.lineWidth = width * ratio; context.beginPath();
        if (kind === "yours") { for (let k = 0; k <= 10; k++) { const a = -Math.PI / 2 + (k * Math.PI) / 5, s = k % 2 ? 0.5 * size : 1.3 * size; context.lineTo(px + s * Math.cos(a), py + s * Math.sin(a)); } }
        else if (kind === "generated") { context.moveTo(px - size, py); context.lineTo(px + size, py); context.moveTo(px, py - size); context.lineTo(px, py + size); }
        else context.arc(px, py, size, 0, 2 * Math.PI);
        context.stroke();
      }
    }
  }

  /** The row of the star nearest to a place on the map, -1 if none is within 14 pixels. */
  nearest(x, y) {
    const [x0, x1, y0, y1] = this.view, { width, height } = this.entry.view.frame.bbox;
    const sx = width / (x1 - x0), sy = height / (y1 - y0);
    let best = -1, least = 14 ** 2;
    for (let i = 0; i < this.x.length; i++) {
      const square = ((this.x[i] - x) * sx) ** 2 + ((this.y[i] - y) * sy) ** 2 + (this.chosen[i] ? 0 : 25);
      if (square < least) { least = square; best = i; }
    }
    return best;
  }

  picture() {
    const { left, top, width, height } = this.entry.view.frame.bbox;
    return Plots.picture(this.entry, (context, scale) => context.drawImage(this.canvas, left * scale, top * scale, width * scale, height * scale));
  }
}

/** Which of the stars lie inside a polygon; NaN does not. */
function inside(x, y, px, py) {
  const found = new Uint8Array(x.length), n = px.length;
  const [low, high, down, up] = [Math.min(...px), Math.max(...px), Math.min(...py), Math.max(...py)];
  for (let i = 0; i < x.length; i++) {
    if (!(x[i] >= low && x[i] <= high && y[i] >= down && y[i] <= up)) continue;
    let within = false;
    for (let a = 0, b = n - 1; a < n; b = a++) {
      if (py[a] > y[i] !== py[b] > y[i] && x[i] < ((px[b] - px[a]) * (y[i] - py[a])) / (py[b] - py[a]) + px[a]) within = !within;
    }
    found[i] = within ? 1 : 0;
  }
  return found;
}
