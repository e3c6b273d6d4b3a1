"use strict";
// Figures by BokehJS in the page's colours, and the spectrum of a star: coefficients, flux, residuals.
const Plots = (() => {
  Bokeh.set_log_level("error");
  const all = new Set();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  function styled(figure) {
    const ink = colour("ink"), line = colour("line");
    for (const axis of [...figure.below, ...figure.left]) {
      if (!("axis_label" in axis)) continue;
      axis.setv({ axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null, axis_label_text_font_style: "normal", axis_label_text_font_size: "13px", major_label_text_font_size: "12px" });
    }
    for (const grid of figure.center) if ("grid_line_color" in grid) grid.setv({ grid_line_color: line, grid_line_alpha: 0.35 });
  }

  /** A figure inside `element`: {figure, view}; transparent, so that the page's background shows. */
  async function figure(element, { x, y, tools = "pan,wheel_zoom,reset", ...settings }) {
    const made = Bokeh.Plotting.figure({ tools, sizing_mode: "stretch_both", background_fill_color: null, border_fill_color: null, outline_line_color: null, toolbar_location: null, x_axis_label: x, y_axis_label: y, min_border_left: 62, min_border_right: 8, ...settings });
    styled(made);
    const view = await Bokeh.Plotting.show(made, element);
    const entry = { figure: made, view: Array.isArray(view) ? view[0] : view, recolour: () => styled(made) };
    all.add(entry);
    return entry;
  }

  /** A holder of some height with a figure and a PNG button that names it. */
  function holder(parent, height, name) {
    const box = document.createElement("div"), plot = document.createElement("div"), button = document.createElement("button");
    box.className = "holder"; box.style.height = `${height}px`; box.setAttribute("role", "img"); box.setAttribute("aria-label", name);
    plot.className = "plot";
    button.className = "png"; button.textContent = "PNG"; button.setAttribute("aria-label", `Save as PNG: ${name}`);
    box.append(plot, button); parent.append(box);
    return { box, plot, button };
  }

  /** The figure's canvas on the page's background, under it what `behind` draws. */
  function picture(entry, behind = null) {
    const layer = entry.view.export("png", true), source = layer.canvas ?? layer._el, canvas = document.createElement("canvas");
    canvas.width = source.width; canvas.height = source.height;
    const context = canvas.getContext("2d");
    context.fillStyle = colour("page");
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (behind) behind(context, canvas.width / entry.view.bbox.width);
    context.drawImage(source, 0, 0);
    return canvas;
  }

  const save = (canvas, name) => canvas.toBlob((blob) => download(blob, `${name}.png`));

  function recolour() { for (const entry of all) entry.recolour(); }
  return { figure, holder, picture, save, recolour, colour, all };
})();

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Spectrum of one star or of one latent vector: coefficients and flux with what is observed, scatter bands, residuals. */
class SpectrumView {
  constructor(parent, network, { residuals, name }) {
    Object.assign(this, { parent, network, residuals, name, ready: null, latest: null });
  }

  show(spectrum) {
    this.latest = spectrum;
    this.ready ??= this.build();
    return this.ready.then(() => { if (this.latest === spectrum) this.draw(spectrum); });
  }

  async build() {
    const source = (names) => new Bokeh.ColumnDataSource({ data: Object.fromEntries(names.map((n) => [n, []])) });
    this.sources = { coeffs: source(["i", "mean", "low", "high"]), seen: source(["i", "x", "low", "high"]), left: source(["i", "r"]), flux: source(["w", "mean", "low", "high"]), seenFlux: source(["w", "f", "low", "high"]), leftFlux: source(["w", "r", "low", "high", "error", "minus"]), family: source(["w", "f", "colour"]) };
    this.panels = {};
    await this.panel("coeffs", 220, { x: this.residuals ? "" : "coefficient (BP, then RP)", y: "coefficient [training sd]" }, "coefficients, observed and decoded");
    if (this.residuals) await this.panel("left", 130, { x: "coefficient (BP, then RP)", y: "residual [σ]" }, "residuals of the coefficients");
    if (this.network.about.design) {
      await this.panel("flux", 230, { x: this.residuals ? "" : "wavelength [nm]", y: "flux" }, "flux, observed and decoded");
      if (this.residuals) await this.panel("leftFlux", 195, { x: "wavelength [nm]", y: "residual" }, "residuals of the flux");
    } else {
      const note = document.createElement("p");
      note.className = "hint";
      note.textContent = `No flux: the basis functions of ${this.network.about.basis.text} are not known.`;
      this.parent.append(note);
    }
    this.recolour();
    Plots.all.add({ recolour: () => this.recolour() });
  }

  /** Ranges of the axes, set from what is drawn; a long error bar does not squeeze all else. */
  fit(key, xs, ...ys) {
    const panel = this.panels[key];
    if (!panel) return;
    const values = ys.flatMap((list) => Array.from(list)).filter(Number.isFinite), figure = panel.entry.figure;
    const low = Math.min(...values), high = Math.max(...values), margin = 0.06 * (high - low) || 1;
    if (values.length) figure.y_range.setv({ start: low - margin, end: high + margin });
    figure.x_range.setv({ start: xs[0] - 0.02 * (xs[xs.length - 1] - xs[0]), end: xs[xs.length - 1] + 0.02 * (xs[xs.length - 1] - xs[0]) });
  }

  async panel(key, height, labels, name) {
    const { box, plot, button } = Plots.holder(this.parent, height, name);
    const entry = await Plots.figure(plot, { ...labels, x_range: new Bokeh.Range1d({ start: 0, end: 1 }), y_range: new Bokeh.Range1d({ start: 0, end: 1 }) });
    button.onclick = () => Plots.save(Plots.picture(entry), `${this.name()}_${key}`);
    const f = entry.figure, field = (name) => ({ field: name }), s = this.sources;
    const glyphs = {
      coeffs: () => [f.varea({ x: field("i"), y1: field("low"), y2: field("high"), source: s.coeffs, fill_alpha: 0.3 }), f.segment({ x0: field("i"), x1: field("i"), y0: field("low"), y1: field("high"), source: s.seen }), f.scatter({ x: field("i"), y: field("x"), source: s.seen, size: 4, line_color: null }), f.line({ x: field("i"), y: field("mean"), source: s.coeffs, line_width: 1.5 })],
      left: () => [f.scatter({ x: field("i"), y: field("r"), source: s.left, size: 4, line_color: null })],
      flux: () => [f.varea({ x: field("w"), y1: field("low"), y2: field("high"), source: s.flux, fill_alpha: 0.3 }), f.multi_line({ xs: field("w"), ys: field("f"), line_color: field("colour"), source: s.family, line_width: 1.5 }), f.line({ x: field("w"), y: field("f"), source: s.seenFlux, line_dash: [3, 3] }), f.line({ x: field("w"), y: field("mean"), source: s.flux, line_width: 1.6 })],
      leftFlux: () => [f.varea({ x: field("w"), y1: field("low"), y2: field("high"), source: s.leftFlux, fill_alpha: 0.2 }), f.line({ x: field("w"), y: field("error"), source: s.leftFlux, line_dash: [4, 3] }), f.line({ x: field("w"), y: field("minus"), source: s.leftFlux, line_dash: [4, 3] }), f.line({ x: field("w"), y: field("r"), source: s.leftFlux, line_width: 1.3 })],
    }[key]();
    this.panels[key] = { entry, box, glyphs };
  }

  recolour() {
    const model = Plots.colour("model"), ink = Plots.colour("ink");
    const colours = { coeffs: [model, ink, ink, model], left: [model], flux: [model, null, ink, model], leftFlux: [model, ink, ink, model] };
    for (const [key, { glyphs }] of Object.entries(this.panels)) glyphs.forEach((g, i) => { const c = colours[key][i]; if (!c) return; const keep = g.glyph; if (keep.type === "VArea") keep.fill_color = { value: c }; else if (keep.type === "Scatter") keep.fill_color = { value: c }; else keep.line_color = { value: c }; });
  }

  draw({ x, errors, g_flux: gFlux, mean, scatter, family = null }) {
    const n = this.network.n, i = Float64Array.from({ length: n }, (_, k) => k + 1), s = this.sources;
    const at = (values, f) => Float64Array.from(values, f);
    s.coeffs.data = { i, mean, low: at(mean, (m, k) => m - scatter[k]), high: at(mean, (m, k) => m + scatter[k]) };
    const seen = x ? at(x, (v, k) => (Number.isFinite(errors[k]) ? v : NaN)) : new Float64Array();
    s.seen.data = x ? { i, x: seen, low: at(seen, (v, k) => v - errors[k]), high: at(seen, (v, k) => v + errors[k]) } : { i: [], x: [], low: [], high: [] };
    s.left.data = x ? { i, r: at(seen, (v, k) => (v - mean[k]) / Math.hypot(errors[k], scatter[k])) } : { i: [], r: [] };
    this.fit("coeffs", i, s.coeffs.data.low, s.coeffs.data.high, seen);
    this.fit("left", i, s.left.data.r, [-1, 1]);
    for (const key of ["left", "leftFlux"]) if (this.panels[key]) this.panels[key].box.hidden = !x;
    if (this.network.about.design) this.drawFlux({ x, errors, gFlux, mean, scatter, family });
  }

  drawFlux({ x, errors, gFlux, mean, scatter, family }) {
    const w = Float64Array.from(this.network.about.design.grid_nm), s = this.sources;
    const of = this.network.flux(mean, x ? scatter.map((v, k) => (Number.isFinite(errors[k]) ? v : NaN)) : scatter, gFlux);
    const power = Math.floor(Math.log10(Math.max(...of.values.filter(Number.isFinite).map(Math.abs)) || 1)), scale = 10 ** power;
    const label = `flux [1e${power} W m⁻² nm⁻¹]`.replace("e-", "e−");
    this.panels.flux.entry.figure.left[0].axis_label = label;
    const at = (values, f) => Float64Array.from(values, f);
    s.flux.data = { w, mean: at(of.values, (v) => v / scale), low: at(of.values, (v, k) => (v - of.errors[k]) / scale), high: at(of.values, (v, k) => (v + of.errors[k]) / scale) };
    s.family.data = family ? { w: family.map(() => w), f: family.map((one) => at(one.values, (v) => v / scale)), colour: family.map((one) => one.colour) } : { w: [], f: [], colour: [] };
    this.fit("flux", w, s.flux.data.low, s.flux.data.high, ...s.family.data.f);
    if (!x) { s.seenFlux.data = { w: [], f: [], low: [], high: [] }; s.leftFlux.data = { w: [], r: [], low: [], high: [], error: [], minus: [] }; return; }
    const seen = this.network.flux(x, errors, gFlux);
    s.seenFlux.data = { w, f: at(seen.values, (v) => v / scale), low: at(seen.values, () => NaN), high: at(seen.values, () => NaN) };
    this.fit("flux", w, s.flux.data.low, s.flux.data.high, s.seenFlux.data.f);
    if (!this.panels.leftFlux) return;
    this.panels.leftFlux.entry.figure.left[0].axis_label = label.replace("flux ", "Δ ");
    s.leftFlux.data = { w, r: at(seen.values, (v, k) => (v - of.values[k]) / scale), low: at(of.errors, (v) => -v / scale), high: at(of.errors, (v) => v / scale), error: at(seen.errors, (v) => v / scale), minus: at(seen.errors, (v) => -v / scale) };
    this.fit("leftFlux", w, s.leftFlux.data.r, s.leftFlux.data.low, s.leftFlux.data.high);
  }
}
