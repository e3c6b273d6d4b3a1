"use strict";
// All state is in one object: columns, view, filters, selection, star, sliders. It is in the URL's fragment, and undone step by step.
const LIST_LENGTH = 100;

class App {
  constructor(about, numbers) {
    this.about = about;
    this.n = about.network.n_latent;
    this.network = new Network(about.network, numbers);
    this.stars = new Stars(about);
    this.past = [];
    this.near = [];
    this.listed = [];
    this.selection = null;
    this.state = this.defaults();
  }

  defaults() {
    const names = [...this.stars.columns.keys()], numeric = names.filter((name) => this.stars.columns.get(name).numeric);
    const first = (...wanted) => wanted.find((name) => this.stars.columns.has(name)) ?? numeric[0];
    return { x: first("pca_1"), y: first("pca_2", "pca_1"), c: first("teff", "teff_gspphot", "spectrum_score", "reduced_chi2"), view: null, star: null, z: new Array(this.n).fill(0), filters: [], shape: null, sort: null, down: true, tab: "star", walk: null };
  }

  get row() { return this.state.star === null ? -1 : (this.stars.rowOf.get(this.state.star) ?? -1); }
  fluxOf(mag) { return 10 ** (0.4 * (this.about.network.g_zero_point - mag)); }
  say(text) { const status = byId("status"); status.className = ""; status.textContent = text; }
  fail(text) { const status = byId("status"); status.textContent = text; status.className = "error"; }

  async begin() {
    await this.stars.begin();
    this.map = new StarMap(this.stars, { onView: () => this.viewed(), onTap: (row) => row >= 0 && this.choose(row), onShape: (px, py) => this.set({ shape: { x: this.state.x, y: this.state.y, px, py } }) });
    await this.map.begin();
    this.panels = { star: new StarPanel(this), generate: new GeneratePanel(this), yours: new YoursPanel(this) };
    this.pickers();
    this.buttons();
    this.aboutText();
    Object.assign(this.state, this.fromUrl());
    await this.panels.generate.begin();
    await this.show(Object.keys(this.state));
    window.addEventListener("hashchange", () => this.restore({ ...this.defaults(), ...this.fromUrl() }));
    this.ready = true;
    const { n_stars: n, n_all: all, spectra } = this.about;
    this.say(`${n.toLocaleString("en")} of ${all.toLocaleString("en")} stars on the map${n < all ? ", a sample that keeps rare places; the wash behind shows the density of all" : ""}; ${spectra ? spectra.n.toLocaleString("en") : "none"} with observed spectra.`);
  }

  /** Change some of the state; the old one can come back by undo. `quiet` changes that follow each other are one step. */
  set(change, { quiet = false } = {}) {
    if (!quiet || !this.quietly) this.remember();
    this.quietly = quiet;
    Object.assign(this.state, change);
    return this.show(Object.keys(change));
  }

  remember() {
    const now = JSON.stringify(this.state);
    if (this.past[this.past.length - 1] !== now) this.past.push(now);
    if (this.past.length > 200) this.past.shift();
    byId("undo").disabled = false;
  }

  undo() {
    this.quietly = false;
    const now = JSON.stringify(this.state);
    while (this.past.length) {
      const before = this.past.pop();
      byId("undo").disabled = this.past.length === 0;
      if (before !== now) return this.restore(JSON.parse(before));
    }
    return null;
  }

  restore(state) { this.state = state; return this.show(Object.keys(state)); }

  async show(changed) {
    const has = (...names) => names.some((name) => changed.includes(name));
    this.toUrl();
    if (has("x", "y")) await this.showAxes(has("view"));
    if (has("view") && this.state.view) this.map.view = this.state.view;
    if (has("view") && !this.state.view && !has("x", "y")) this.showWhole();
    if (has("filters")) this.showFilters();
    if (has("x", "y", "c", "filters", "shape")) await this.showColours();
    if (has("x", "y", "c", "filters", "shape", "sort", "down")) await this.showList();
    if (changed.length < 3 && has("filters", "shape") && (this.state.shape || this.state.filters.length)) this.say(`${this.listed.length.toLocaleString("en")} stars selected; they are listed below the map.`);
    if (has("tab")) this.showTab();
    if (has("star")) { this.near = []; this.showTab(); await this.panels.star.show(this.row); }
    if (has("walk")) this.panels.generate.showWalk();
    if (has("z", "tab")) this.panels.generate.draw();
    this.mark();
  }

  async showAxes(hasView) {
    const { x, y } = this.state, [xs, ys] = await Promise.all([this.stars.values(x), this.stars.values(y)]);
    byId("pick-x").value = x; byId("pick-y").value = y;
    const title = (name) => { const { unit } = this.stars.columns.get(name); return unit ? `${name} [${unit}]` : name; };
    this.map.axes(xs, ys, [title(x), title(y)]);
    if (!hasView || !this.state.view) this.showWhole();
  }

  showWhole() {
    const { x, y } = this.state;
    this.map.view = [...StarMap.wholeRange(this.map.x, x, "x"), ...StarMap.wholeRange(this.map.y, y, "y")];
  }

  viewed() {
    clearTimeout(this.viewing);
    if (this.beforeView === undefined) this.beforeView = JSON.stringify(this.state);
    this.viewing = setTimeout(() => {
      if (this.past[this.past.length - 1] !== this.beforeView) this.past.push(this.beforeView);
      this.beforeView = undefined;
      byId("undo").disabled = false;
      this.state.view = this.map.view;
      this.toUrl();
    }, 250);
  }

  /** Which stars are coloured: inside the shape and all filters; and in what colour. */
  async showColours() {
    const { c, filters, shape } = this.state, column = this.stars.columns.get(c), values = await this.stars.values(c), n = this.stars.n;
    const chosen = new Uint8Array(n).fill(1);
    for (const { column: name, low, high, is } of filters) {
      const own = await this.stars.values(name);
      for (let i = 0; i < n; i++) if (is !== undefined ? own[i] !== is : !(own[i] >= low && own[i] <= high)) chosen[i] = 0;
    }
    if (shape) {
      const within = inside(await this.stars.values(shape.x), await this.stars.values(shape.y), shape.px, shape.py);
      for (let i = 0; i < n; i++) chosen[i] &= within[i];
    }
    this.map.chosen = chosen;
    byId("pick-c").value = c;
    const missing = pixel("#8a8a8a"), shade = this.map.shade;
    if (column.numeric) {
      const known = values.filter((v, i) => Number.isFinite(v) && (chosen[i] || !shape)).sort();
      let [low, high] = known.length ? [known[Math.floor(0.05 * (known.length - 1))], known[Math.ceil(0.95 * (known.length - 1))]] : [0, 1];
      if (low === high) [low, high] = [low - 0.5, high + 0.5];
      const pixels = this.about.palette.map((hex) => pixel(hex));
      for (let i = 0; i < n; i++) shade[i] = Number.isFinite(values[i]) ? pixels[Math.round(63 * Math.min(Math.max((values[i] - low) / (high - low), 0), 1))] : missing;
      this.ramp(column, low, high);
    } else {
      const pixels = CATEGORY_COLOURS.map((hex) => pixel(hex));
      for (let i = 0; i < n; i++) shade[i] = values[i] === 255 ? missing : pixels[values[i] % pixels.length];
      this.keys(column, values);
    }
    this.map.draw();
  }

  ramp(column, low, high) {
    const ticks = Array.from({ length: 5 }, (_, i) => shown(Number((low + ((high - low) * i) / 4).toPrecision(3))));
    const ramp = made("div", { class: "ramp" });
    ramp.style.background = `linear-gradient(to right, ${this.about.palette.join(",")})`;
    byId("legend").replaceChildren(made("div", { text: `${withUnit(column.name, column.unit ? `[${column.unit}]` : "")}${column.description ? `: ${column.description}` : ""}`, class: "hint" }), ramp, made("div", { class: "ticks" }, ...ticks.map((text, i) => made("span", { text: i === 0 ? `≤ ${text}` : i === 4 ? `≥ ${text}` : text }))), this.greyKey());
  }

  keys(column, values) {
    const counts = new Array(256).fill(0);
    for (const v of values) counts[v]++;
    const keys = column.categories.map((name, i) => {
      const swatch = made("span", { class: "swatch" });
      swatch.style.background = CATEGORY_COLOURS[i % CATEGORY_COLOURS.length];
      return made("button", { class: "key", title: "Show these alone", onclick: () => this.set({ filters: [...this.state.filters.filter((f) => f.column !== column.name), { column: column.name, is: i }] }) }, swatch, `${name} (${counts[i].toLocaleString("en")})`);
    });
    byId("legend").replaceChildren(made("div", { text: `${column.name}${column.description ? `: ${column.description.slice(0, 160)}` : ""}`, class: "hint" }), ...keys, this.greyKey());
  }

  greyKey() {
    const swatch = (colour) => { const s = made("span", { class: "swatch" }); s.style.background = colour; return s; };
    return made("div", {}, made("span", { class: "key" }, swatch("#8a8a8a"), "no value"), made("span", { class: "key" }, swatch("var(--grey)"), "not selected"), made("span", { class: "key", text: "wash: density of all" }));
  }

  async showList() {
    const { sort, down, shape, filters } = this.state, name = sort && this.stars.columns.has(sort) ? sort : this.state.c;
    const column = this.stars.columns.get(name), values = await this.stars.values(name), rows = [];
    for (let i = 0; i < this.stars.n; i++) if (this.map.chosen[i]) rows.push(i);
    const rank = (v) => (column.numeric ? (Number.isFinite(v) ? (down ? -v : v) : Infinity) : v === 255 ? Infinity : down ? -v : v);
    const keys = Float64Array.from(values, rank);
    rows.sort((a, b) => keys[a] - keys[b] || a - b);
    this.listed = rows;
    byId("n-listed").textContent = `${rows.length.toLocaleString("en")} ${shape || filters.length ? "selected" : "stars, none selected"}`;
    byId("pick-sort").value = name;
    byId("descending").textContent = down ? "largest first" : "smallest first";
    byId("descending").setAttribute("aria-pressed", String(down));
    byId("clear-selection").disabled = !shape && !filters.length;
    const names = [...new Set([name, this.state.c, this.state.x, this.state.y])], columns = names.map((one) => this.stars.columns.get(one));
    await Promise.all(names.map((one) => this.stars.values(one)));
    byId("list").replaceChildren(...tableOf(["source_id", ...columns.map((one) => (one.unit ? `${one.name} [${one.unit}]` : one.name))], rows.slice(0, LIST_LENGTH).map((row) => [made("button", { text: this.stars.ids[row], "data-row": row, onclick: () => this.choose(row) }), ...columns.map((one) => this.stars.text(one, row))])));
  }

  showFilters() {
    const { filters } = this.state;
    byId("n-filters").textContent = filters.length ? `(${filters.length})` : "";
    if (filters.length) byId("filters").open = true;
    byId("filter-list").replaceChildren(...filters.map((filter, i) => {
      const column = this.stars.columns.get(filter.column), change = (part) => this.set({ filters: filters.map((f, j) => (j === i ? { ...f, ...part } : f)) });
      const remove = made("button", { text: "Remove", "aria-label": `Remove the filter of ${filter.column}`, onclick: () => this.set({ filters: filters.filter((_, j) => j !== i) }) });
      if (!column.numeric) {
        const pick = made("select", { "aria-label": `${filter.column} is`, onchange: (event) => change({ is: Number(event.target.value) }) }, ...column.categories.map((text, value) => made("option", { text, value })));
        pick.value = filter.is;
        return made("div", { class: "filter" }, `${filter.column} is`, pick, remove);
      }
      const end = (which, word) => made("input", { type: "number", step: "any", value: filter[which], "aria-label": `${filter.column} ${word}`, onchange: (event) => event.target.value !== "" && change({ [which]: Number(event.target.value) }) });
      return made("div", { class: "filter" }, `${filter.column} from`, end("low", "from"), "to", end("high", "to"), column.unit, remove);
    }));
  }

  async addFilter(name) {
    const column = this.stars.columns.get(name), values = await this.stars.values(name);
    if (!column.numeric) return this.set({ filters: [...this.state.filters, { column: name, is: 0 }] });
    const known = values.filter(Number.isFinite).sort(), neat = (v, up) => { const d = 10 ** Math.floor(Math.log10(Math.abs(v) || 1) - 3); return Number(((up ? Math.ceil(v / d) : Math.floor(v / d)) * d).toPrecision(6)); };
    return this.set({ filters: [...this.state.filters, { column: name, low: known.length ? neat(known[0], false) : 0, high: known.length ? neat(known[known.length - 1], true) : 1 }] });
  }

  showTab() {
    for (const tab of document.querySelectorAll('[role="tab"]')) {
      const own = tab.id === `tab-${this.state.tab}`;
      tab.setAttribute("aria-selected", String(own));
      tab.tabIndex = own ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = !own;
    }
  }

  choose(row) {
    this.say(`Star ${this.stars.ids[row]}: its spectrum and row are in the panel Star.`);
    if (window.matchMedia("(max-width: 900px)").matches) byId("side").scrollIntoView();
    return this.set({ star: this.stars.ids[row], tab: "star" });
  }

  async generateFrom(row) {
    const latents = await this.stars.latents(), z = latents.map((values) => values[row]);
    if (!z.every(Number.isFinite)) return this.fail("This star has no latents.");
    this.panels.generate.family = null;
    return this.set({ z, tab: "generate" });
  }

  /** A star of a file through the encoder: {inputs, posterior, predicted, fit}. */
  encodeStar(star) {
    const inputs = this.network.inputs(star), posterior = this.network.encode(inputs.x, inputs.errors), predicted = this.network.decode(posterior.mean);
    return { inputs, posterior, predicted, fit: this.network.fit(inputs.x, inputs.errors, posterior, predicted, inputs.g_flux) };
  }

  /** Where a latent vector lies on the map's axes; NaN where an axis is no function of the latents. */
  place(z) {
    const along = (name) => {
      const latent = /^latent_(\d+)_mean$/.exec(name), axis = /^pca_(\d)$/.exec(name);
      if (latent) return z[latent[1] - 1];
      return axis ? this.about.components[axis[1] - 1].reduce((sum, c, k) => sum + c * (z[k] - this.about.centre[k]), 0) : NaN;
    };
    return { x: along(this.state.x), y: along(this.state.y) };
  }

  mark() {
    const { map, row } = this, own = (i, kind) => ({ x: map.x[i], y: map.y[i], kind }), marks = [], paths = [];
    if (!map.x) return;
    if (this.state.tab === "star") for (const i of this.near) marks.push(own(i, "neighbour"));
    if (row >= 0) marks.push(own(row, "star"));
    if (this.state.tab === "generate") marks.push({ ...this.place(this.state.z), kind: "generated" });
    if (this.panels.yours.result) marks.push({ ...this.place(this.panels.yours.result.posterior.mean), kind: "yours" });
    const ends = Object.values(this.state.walk ?? {}).map((id) => this.stars.rowOf.get(id)).filter((i) => i !== undefined);
    if (ends.length === 2) paths.push({ points: ends.map((i) => [map.x[i], map.y[i]]) });
    if (this.state.shape && this.state.shape.x === this.state.x && this.state.shape.y === this.state.y) { const { px, py } = this.state.shape; paths.push({ points: [...px.map((v, i) => [v, py[i]]), [px[0], py[0]]] }); }
    Object.assign(map, { marks, paths });
    map.draw();
  }

  toUrl() {
    const plain = this.defaults(), parts = Object.entries(this.state).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(plain[name]));
    const short = (_, v) => (typeof v === "number" ? Number(v.toPrecision(7)) : v);
    this.fragment = parts.map(([name, value]) => `${name}=${encodeURIComponent(JSON.stringify(value, short))}`).join("&");
    try { history.replaceState(null, "", `#${this.fragment}`); } catch { /* a page inside a notebook has no address of its own */ }
  }

  /** The state that the fragment asks for; what does not fit this page is left out. */
  fromUrl() {
    const found = {}, columns = this.stars.columns, numeric = (name) => columns.get(name)?.numeric === true;
    const fits = { x: numeric, y: numeric, c: (v) => columns.has(v), sort: (v) => columns.has(v), view: (v) => Array.isArray(v) && v.length === 4 && v.every(Number.isFinite), star: (v) => this.stars.rowOf.has(v), z: (v) => Array.isArray(v) && v.length === this.n && v.every(Number.isFinite), filters: (v) => Array.isArray(v) && v.every((f) => columns.has(f.column)), shape: (v) => v && numeric(v.x) && numeric(v.y) && Array.isArray(v.px) && Array.isArray(v.py), down: (v) => typeof v === "boolean", tab: (v) => ["star", "generate", "yours", "about"].includes(v), walk: (v) => v !== null && typeof v === "object" };
    for (const part of location.hash.slice(1).split("&").filter(Boolean)) {
      const [name, text] = part.split("=");
      try { const value = JSON.parse(decodeURIComponent(text)); if (fits[name]?.(value)) found[name] = value; } catch { this.fail(`The link's ${name} cannot be read and is left out.`); }
    }
    return found;
  }

  pickers() {
    const options = (columns) => columns.map((column) => made("option", { value: column.name, text: column.unit ? `${column.name} [${column.unit}]` : column.name, title: column.description }));
    const all = [...this.stars.columns.values()], numeric = all.filter((column) => column.numeric);
    for (const [id, columns, key] of [["pick-x", numeric, "x"], ["pick-y", numeric, "y"], ["pick-c", all, "c"], ["pick-sort", all, "sort"], ["pick-filter", all, null]]) {
      byId(id).replaceChildren(...options(columns));
      if (key) byId(id).onchange = (event) => this.set(key === "x" || key === "y" ? { [key]: event.target.value, view: null } : { [key]: event.target.value });
    }
  }

  buttons() {
    byId("undo").onclick = () => this.undo();
    byId("to-map").onclick = () => byId("map-panel").scrollIntoView();
    byId("whole").onclick = () => this.set({ view: null });
    byId("add-filter").onclick = () => this.addFilter(byId("pick-filter").value);
    byId("clear-selection").onclick = () => this.set({ shape: null, filters: [] });
    byId("descending").onclick = () => this.set({ down: !this.state.down });
    byId("export").onclick = () => download(new Blob([this.csv()], { type: "text/csv" }), "selection.csv");
    byId("copy-link").onclick = () => this.copyLink();
    document.querySelector('[data-png="map"]').onclick = () => Plots.save(this.map.picture(), "map");
    byId("search").onsubmit = (event) => { event.preventDefault(); this.find(byId("search-id").value); };
    for (const button of document.querySelectorAll("[data-drag]")) {
      button.onclick = () => {
        this.map.drag(button.dataset.drag);
        for (const other of document.querySelectorAll("[data-drag]")) other.setAttribute("aria-pressed", String(other === button));
      };
    }
    this.themes();
    this.tabs();
    byId("map").addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("keydown", (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key === "z" && !/^(INPUT|TEXTAREA)$/.test(event.target.tagName)) { event.preventDefault(); this.undo(); }
    });
  }

  themes() {
    const dark = (on) => {
      document.documentElement.dataset.theme = on ? "dark" : "light";
      byId("theme").setAttribute("aria-pressed", String(on));
      Plots.recolour();
    };
    byId("theme").onclick = () => dark(document.documentElement.dataset.theme !== "dark");
    dark(window.matchMedia("(prefers-color-scheme: dark)").matches);
  }

  tabs() {
    const tabs = [...document.querySelectorAll('[role="tab"]')];
    tabs.forEach((tab, i) => {
      tab.onclick = () => this.set({ tab: tab.id.slice(4) });
      tab.onkeydown = (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (step) { const next = tabs[(i + step + tabs.length) % tabs.length]; next.focus(); next.click(); }
      };
    });
  }

  key(event) {
    const [x0, x1, y0, y1] = this.map.view, dx = 0.1 * (x1 - x0), dy = 0.1 * (y1 - y0);
    const move = (a, b) => [x0 + a, x1 + a, y0 + b, y1 + b], zoom = (s) => [x0 + s * dx, x1 - s * dx, y0 + s * dy, y1 - s * dy];
    const views = { ArrowLeft: () => move(-dx, 0), ArrowRight: () => move(dx, 0), ArrowUp: () => move(0, dy), ArrowDown: () => move(0, -dy), "+": () => zoom(1), "=": () => zoom(1), "-": () => zoom(-1.25) };
    const step = { n: 1, p: -1 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (views[event.key]) this.set({ view: views[event.key]() });
    else if (event.key === "0") this.set({ view: null });
    else if (step && this.listed.length) this.choose(this.listed[(this.listed.indexOf(this.row) + step + this.listed.length) % this.listed.length]);
    else return;
    event.preventDefault();
  }

  find(text) {
    const id = text.trim().replace(/^Gaia\s+DR\d+\s+/i, "");
    if (this.stars.rowOf.has(id)) return this.choose(this.stars.rowOf.get(id));
    return this.fail(`No star ${id} among the ${this.stars.n.toLocaleString("en")} of this page.`);
  }

  csv() { return `source_id\n${this.listed.map((row) => `"${this.stars.ids[row]}"`).join("\n")}\n`; }

  async copyLink() {
    const link = `${location.href.split("#")[0]}#${this.fragment}`;
    try { await navigator.clipboard.writeText(link); this.say("Link copied: it opens this page as it is now."); } catch { this.say(`Copy this link: ${link}`); }
  }

  aboutText() {
    const { about } = this, s = about.spectra;
    const facts = { stars: `${about.n_stars.toLocaleString("en")} of ${about.n_all.toLocaleString("en")} in ${about.catalogue}`, model: `recipe ${about.model.recipe}, ${about.model.calibrated ? "calibrated" : "not calibrated"}, digest ${about.model.digest}`, coefficients: about.network.basis.text, "observed spectra": s ? `of ${s.n.toLocaleString("en")} stars, in the draw's order; rounding changes 99.9 % of the coefficients by less than ${Number(s.coeff_loss.toPrecision(2))} of their errors, and errors by less than ${(100 * s.error_loss).toFixed(1)} %` : "none: the page was made without --stars, or had no room", "observed flux": "errors of coefficients taken as independent", "columns": "rounded to 65,534 steps of their range, or to 17 bits; numbers show no more digits than that", made: `by scattervae ${about.version}; plots by BokehJS; data ESA/Gaia/DPAC` };
    byId("about").replaceChildren(made("dl", {}, ...Object.entries(facts).flatMap(([name, text]) => [made("dt", { text: name }), made("dd", { text })])));
  }
}

(async () => {
  const about = JSON.parse(byId("about-page").textContent);
  try {
    const app = new App(about, await unpacked("network", Float32Array));
    window.scattervae = app;
    await app.begin();
    window.scattervaeReady = performance.now();
  } catch (error) {
    byId("status").textContent = `This page could not start: ${error.message}`;
    byId("status").className = "error";
    throw error;
  }
})();
