"use strict";
// The panels beside the map: a star, spectra from latents, a star of one's own.
const byId = (id) => document.getElementById(id);

/** An element with text, attributes and children; what comes from data is text, never HTML. */
function made(tag, { text = null, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element[name] = value; else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function tableOf(header, rows) {
  const head = made("tr", {}, ...header.map((text) => made("th", { text, scope: "col" })));
  return [made("thead", {}, head), made("tbody", {}, ...rows.map((cells) => made("tr", {}, ...cells.map((cell) => (cell instanceof Node ? made("td", {}, cell) : made("td", { text: cell, class: /^[−\d]/.test(cell) ? "number" : "" }))))))];
}

function neighbourButtons(app, parent, found) {
  parent.replaceChildren(...found.map(({ row, distance }) => made("button", { text: `${app.stars.ids[row]} (${distance.toFixed(2)})`, title: `distance ${distance.toFixed(3)} in the latents`, onclick: () => app.choose(row) })));
  if (!found.length) parent.append(made("span", { text: "no other star has latents", class: "hint" }));
}

class StarPanel {
  constructor(app) {
    this.app = app;
    this.plots = new SpectrumView(byId("star-plots"), app.network, { residuals: true, name: () => `star_${app.state.star}` });
  }

  /** The star's links at once; then its spectrum, its neighbours, and last its row, which takes all columns. */
  async show(row) {
    const { app } = this, { stars } = app, id = stars.ids[row];
    byId("star-title").textContent = row < 0 ? "No star chosen" : `Gaia source ${id}`;
    byId("star-row").replaceChildren();
    byId("star-neighbours").replaceChildren();
    if (row < 0) return byId("star-links").replaceChildren();
    const quoted = encodeURIComponent(`Gaia DR3 ${id}`);
    const query = encodeURIComponent(`SELECT * FROM gaiadr3.gaia_source WHERE source_id = ${id}`);
    byId("star-links").replaceChildren(
      made("a", { text: "SIMBAD", href: `https://simbad.cds.unistra.fr/simbad/sim-id?Ident=${quoted}`, rel: "noreferrer", target: "_blank" }),
      made("a", { text: "Gaia archive", href: `https://gea.esac.esa.int/tap-server/tap/sync?REQUEST=doQuery&LANG=ADQL&FORMAT=csv&QUERY=${query}`, rel: "noreferrer", target: "_blank" }),
      made("button", { text: "Generate from here", onclick: () => app.generateFrom(row) }),
    );
    await this.showSpectrum(row);
    const columns = [...stars.columns.values()];
    await Promise.all(columns.map((column) => stars.values(column.name)));
    if (app.row !== row) return null; // another star was chosen meanwhile
    return byId("star-row").replaceChildren(...tableOf(["column", "value", "what it is"], columns.map((column) => [column.name, withUnit(stars.text(column, row), column.unit), column.description])));
  }

  async showSpectrum(row) {
    const { app } = this, { stars, network } = app, z = (await stars.latents()).map((values) => values[row]);
    const encoded = z.every(Number.isFinite);
    byId("star-plots").hidden = !encoded;
    if (!encoded) {
      byId("star-note").textContent = "This star could not be encoded: it has no latents. Its flags say why.";
      return;
    }
    const observed = await stars.observed(row), spectrum = { g_flux: app.fluxOf(15), ...(observed ?? {}), ...network.decode(z) };
    if (!(spectrum.g_flux > 0)) spectrum.g_flux = app.fluxOf(15);
    byId("star-note").textContent = observed
      ? "Dots and dotted line: observed, bars one σ of error. Line: decoded, band one σ of scatter. Below: residuals over error and scatter; of flux, dashed one σ of error, coefficients taken as independent."
      : `Decoded alone, scaled to G = 15: the page holds the observed spectra of ${stars.about.spectra ? stars.about.spectra.n.toLocaleString("en") : "no"} stars, not of this one.`;
    await this.plots.show(spectrum);
    const near = await stars.neighbours(z, 8, row);
    if (app.row !== row) return;
    app.near = near.map((one) => one.row);
    neighbourButtons(app, byId("star-neighbours"), near);
    app.mark();
  }
}

class GeneratePanel {
  constructor(app) {
    Object.assign(this, { app, family: null, playing: null });
    this.plots = new SpectrumView(byId("generate-plots"), app.network, { residuals: false, name: () => "generated" });
    byId("from-mean").onclick = () => app.set({ z: new Array(app.n).fill(0) });
    byId("from-star").onclick = () => (app.row < 0 ? app.say("Choose a star first.") : app.generateFrom(app.row));
    byId("generate-g").oninput = () => this.draw();
    byId("family").onclick = () => this.showFamily();
    byId("play").onclick = () => this.play();
    byId("walk-from").onclick = () => this.walkEnd("a");
    byId("walk-to").onclick = () => this.walkEnd("b");
    byId("walk").onchange = () => { app.quietly = false; };
    byId("walk").oninput = () => this.walk(Number(byId("walk").value));
    byId("from-labels").onclick = () => this.fromLabels();
  }

  async begin() {
    const { app } = this, latents = await app.stars.latents();
    this.ranges = latents.map((values) => { const [low, high] = StarMap.wholeRange(values, "", "x"); return low < high ? [low, high] : [-3, 3]; });
    byId("sliders").replaceChildren(...this.ranges.map(([low, high], k) => {
      const output = made("output", { text: "0.00" });
      const input = made("input", { type: "range", min: low.toFixed(3), max: high.toFixed(3), step: "0.001", "aria-label": `latent ${k + 1}`, "data-latent": k });
      input.oninput = () => { this.family = null; const z = [...app.state.z]; z[k] = Number(input.value); app.set({ z }, { quiet: true }); };
      input.onchange = () => { app.quietly = false; };
      return made("label", {}, made("span", { text: `latent ${k + 1}` }), output, input);
    }));
    byId("family-latent").replaceChildren(...this.ranges.map((_, k) => made("option", { value: k, text: String(k + 1) })));
    const labels = ["teff", "logg", "fe_h", "alpha_m", "m_h", "a_k"].filter((name) => app.stars.columns.get(name)?.numeric);
    byId("requested").hidden = labels.length === 0;
    byId("requested-labels").replaceChildren(...labels.map((name) => made("label", { text: `${name} ` }, made("input", { type: "number", step: "any", id: `label-${name}`, "data-label": name }), made("span", { text: ` ${app.stars.columns.get(name).unit}` }))));
  }

  draw() {
    const { app } = this, z = app.state.z;
    if (!z || !this.ranges) return;
    for (const input of byId("sliders").querySelectorAll("input")) {
      const k = Number(input.dataset.latent);
      input.value = z[k];
      input.previousSibling.textContent = z[k].toFixed(2).replace("-", "−");
    }
    if (byId("panel-generate").hidden) return;
    const started = performance.now(), predicted = app.network.decode(z), spent = performance.now() - started;
    byId("decode-time").textContent = `decoded in ${spent.toFixed(1)} ms`;
    this.plots.show({ ...predicted, g_flux: app.fluxOf(Number(byId("generate-g").value)), family: this.family });
    app.mark();
  }

  async fromLabels() {
    const { app } = this, wanted = [...byId("requested-labels").querySelectorAll("input")].filter((input) => input.value !== "");
    if (!wanted.length) return app.say("Give a value for at least one label.");
    const columns = await Promise.all(wanted.map((input) => app.stars.values(input.dataset.label)));
    const spreads = columns.map((values) => { const known = values.filter(Number.isFinite).sort(); return known[Math.floor(0.84 * known.length)] - known[Math.floor(0.16 * known.length)] || 1; });
    const latents = await app.stars.latents(), found = [];
    for (let row = 0; row < app.stars.n; row++) {
      const square = wanted.reduce((sum, input, i) => sum + ((columns[i][row] - Number(input.value)) / spreads[i]) ** 2, 0);
      if (Number.isFinite(square) && Number.isFinite(latents[0][row])) found.push([square, row]);
    }
    if (!found.length) return app.say("No star of the page has these labels.");
    const near = found.sort((a, b) => a[0] - b[0]).slice(0, 25).map(([, row]) => row);
    const mean = (values) => near.reduce((sum, row) => sum + values[row], 0) / near.length;
    byId("requested-note").textContent = `mean latents of the ${near.length} stars nearest in these labels, whose means are ${wanted.map((input, i) => withUnit(`${input.dataset.label} ${shown(Number(mean(columns[i]).toPrecision(4)))}`, app.stars.columns.get(input.dataset.label).unit)).join(", ")}`;
    this.family = null;
    app.set({ z: latents.map(mean) });
  }

  showFamily() {
    const { app } = this, k = Number(byId("family-latent").value), [low, high] = this.ranges[k], gFlux = app.fluxOf(Number(byId("generate-g").value));
    if (!app.network.about.design) return app.say("No flux is known of this basis.");
    this.family = Array.from({ length: 11 }, (_, i) => {
      const z = [...app.state.z];
      z[k] = low + ((high - low) * i) / 10;
      return { values: app.network.flux(app.network.decode(z).mean, new Float64Array(app.network.n), gFlux).values, colour: app.about.palette[Math.round((63 * i) / 10)] };
    });
    this.draw();
    app.say(`Latent ${k + 1} from ${shown(Number(low.toFixed(2)))} (dark) to ${shown(Number(high.toFixed(2)))} (bright), the others as the sliders have them.`);
  }

  play() {
    const { app } = this, button = byId("play");
    if (this.playing) { cancelAnimationFrame(this.playing); this.playing = null; button.setAttribute("aria-pressed", "false"); button.textContent = "Play"; app.quietly = false; return; }
    const k = Number(byId("family-latent").value), [low, high] = this.ranges[k], started = performance.now();
    this.showFamily();
    button.setAttribute("aria-pressed", "true");
    button.textContent = "Stop";
    const step = (now) => {
      const z = [...app.state.z];
      z[k] = low + ((high - low) * (1 - Math.cos((now - started) / 1500))) / 2;
      app.set({ z }, { quiet: true });
      this.playing = requestAnimationFrame(step);
    };
    this.playing = requestAnimationFrame(step);
  }

  walkEnd(end) {
    const { app } = this;
    if (app.row < 0) return app.say("Choose a star first.");
    app.set({ walk: { ...(app.state.walk ?? {}), [end]: app.state.star } });
    if (app.state.walk.a && app.state.walk.b) this.walk(0);
  }

  async walk(t) {
    const { app } = this, { a, b } = app.state.walk ?? {}, rows = [a, b].map((id) => app.stars.rowOf.get(id) ?? -1);
    if (rows.some((row) => row < 0)) return;
    const latents = await app.stars.latents();
    byId("walk-at").textContent = `${Math.round(100 * t)} %`;
    this.family = null;
    app.set({ z: latents.map((values) => values[rows[0]] + t * (values[rows[1]] - values[rows[0]])) }, { quiet: true });
  }

  showWalk() {
    const { a, b } = this.app.state.walk ?? {};
    byId("walk-ends").textContent = a || b ? `from ${a ?? "–"} to ${b ?? "–"}` : "Choose a star, then its place.";
    byId("walk").disabled = !(a && b);
  }
}

class YoursPanel {
  constructor(app) {
    Object.assign(this, { app, stars: [], at: 0, result: null });
    const drop = byId("drop");
    byId("file").onchange = (event) => event.target.files[0] && this.read(event.target.files[0]);
    drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
    drop.ondragleave = () => drop.classList.remove("over");
    drop.ondrop = (event) => { event.preventDefault(); drop.classList.remove("over"); if (event.dataTransfer.files[0]) this.read(event.dataTransfer.files[0]); };
    byId("drop-help").textContent = `A csv of the archive's XP_CONTINUOUS spectra, or rows of a store or file exported as csv or JSON: source_id, bp_coefficients, bp_coefficient_errors and the same of rp, with phot_g_mean_flux or phot_g_mean_mag where known. Nothing leaves this page. Coefficients are those of ${app.network.about.basis.text}.`;
    byId("pick-yours").onchange = () => this.show(Number(byId("pick-yours").value));
    this.box = byId("yours-result");
  }

  async read(file) {
    try {
      this.stars = Reading.stars(await file.text(), this.app.network.about.basis, this.app.network.about.g_zero_point);
      byId("yours-pick").hidden = this.stars.length < 2;
      byId("pick-yours").replaceChildren(...this.stars.slice(0, 2000).map((star, i) => made("option", { value: i, text: star.source_id })));
      await this.show(0);
    } catch (error) {
      this.app.fail(`${file.name}: ${error.message}`);
    }
  }

  async show(index) {
    const { app } = this;
    let encoded;
    try { encoded = app.encodeStar(this.stars[index]); } catch (error) { this.result = null; this.box.replaceChildren(); app.mark(); return app.fail(error.message); }
    this.result = encoded;
    const { posterior, fit } = encoded, own = app.stars.rowOf.get(this.stars[index].source_id) ?? -1, near = await app.stars.neighbours(posterior.mean, 8, own);
    const latents = Array.from(posterior.mean, (m, k) => [`latent ${k + 1}`, shown(Number(m.toFixed(3))), `± ${posterior.sd[k].toFixed(3)}`]);
    const others = await this.oddness(fit, near);
    const neighbours = made("div", { class: "row" });
    neighbourButtons(app, neighbours, near);
    const plots = made("div");
    this.box.replaceChildren(made("h3", { text: `Star ${this.stars[index].source_id}` }), ...others.map((text) => made("p", { text })), made("h3", { text: "Nearest in the latents (distance)" }), neighbours, made("h3", { text: "Spectrum" }), plots, made("h3", { text: "Where it lies: posterior" }), made("table", {}, ...tableOf(["latent", "mean", "one σ"], latents)), made("button", { text: "Generate from here", onclick: () => { app.set({ z: Array.from(posterior.mean), tab: "generate" }); } }));
    const view = new SpectrumView(plots, app.network, { residuals: true, name: () => `star_${this.stars[index].source_id}` });
    await view.show({ ...encoded.inputs, ...encoded.predicted });
    app.mark();
    app.say(`Star ${this.stars[index].source_id} encoded; the star-shaped mark on the map shows where it lies.`);
  }

  /** How odd it is, in words: fit, score and distance against the page's own stars. */
  async oddness(fit, near) {
    const { app } = this, texts = [`Reduced χ² ${shown(Number(fit.reduced_chi2.toPrecision(3)))} (residuals over error and scatter).`];
    if (app.stars.columns.get("reduced_chi2")?.numeric) {
      const values = (await app.stars.values("reduced_chi2")).filter(Number.isFinite), worse = values.filter((v) => v > fit.reduced_chi2).length;
      if (values.length) texts[0] += ` ${((100 * worse) / values.length).toFixed(1)} % of the page's stars fit worse.`;
    }
    if (fit.score !== null) texts.push(`Score ${fit.score.toFixed(3)}: the share of stars like it that the model reproduces worse; near 0 is odd.`);
    if (near.length) texts.push(`The nearest other star lies ${near[0].distance.toFixed(2)} away in the latents, whose prior has a spread of 1 along each.`);
    texts.push(`G flux ${shown(this.result.inputs.g_flux)} electron/s, from ${this.result.inputs.g_from}.`);
    return texts;
  }
}
