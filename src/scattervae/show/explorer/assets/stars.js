"use strict";
// The page's stars: blocks of text to arrays, when they are first asked for.
async function unpacked(name, Kind) {
  const text = document.getElementById(`block-${name}`).textContent;
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  const plain = new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
  const size = Kind.BYTES_PER_ELEMENT, n = plain.length / size, whole = new Uint8Array(plain.length);
  if (size === 1) whole.set(plain);
  else for (let byte = 0; byte < size; byte++) for (let i = 0, at = byte * n; i < n; i++) whole[i * size + byte] = plain[at + i];
  return new Kind(whole.buffer);
}

class Stars {
  constructor(about) {
    this.about = about;
    this.n = about.n_stars;
    this.columns = new Map(about.columns.map((column, index) => [column.name, { ...column, index, numeric: column.code !== "category" }]));
    this.loaded = new Map();
    this.spectra = null;
  }

  async begin() {
    this.ids = Array.from(await unpacked("source_id", BigInt64Array), String);
    this.rowOf = new Map(this.ids.map((id, row) => [id, row]).reverse());
    this.weights = await unpacked("weights", Float32Array);
  }

  /** Values of a column: float32 with NaN where missing, or codes of categories with 255 where missing. */
  values(name) {
    if (!this.loaded.has(name)) this.loaded.set(name, this.load(this.columns.get(name)));
    return this.loaded.get(name);
  }

  async load(column) {
    const block = `column_${column.index}`;
    if (column.code === "category") return (column.values = await unpacked(block, Uint8Array));
    if (column.code === "f32") return (column.values = await unpacked(block, Float32Array));
    const codes = await unpacked(block, column.code === "u8" ? Uint8Array : Uint16Array), missing = column.code === "u8" ? 255 : 65535;
    const { low, step } = column, values = new Float32Array(codes.length);
    for (let i = 0; i < codes.length; i++) values[i] = codes[i] === missing ? NaN : low + codes[i] * step;
    return (column.values = values);
  }

  get latentNames() { return Array.from({ length: this.about.network.n_latent }, (_, k) => `latent_${k + 1}_mean`); }
  async latents() { return Promise.all(this.latentNames.map((name) => this.values(name))); }
  has(row) { return this.about.spectra !== null && row < this.about.spectra.n; }

  /** The observed spectrum of a row that has one: {x, errors, g_flux}. */
  async observed(row) {
    if (!this.has(row)) return null;
    this.spectra ??= await Promise.all([unpacked("coeffs", Int16Array), unpacked("errors", Uint8Array), unpacked("g_flux", Float32Array)]);
    const [coeffs, errors, gFlux] = this.spectra, { n, coeffs: c, errors: e } = this.about.spectra, size = this.about.network.n_coeffs;
    const star = { x: new Float64Array(size), errors: new Float64Array(size), g_flux: gFlux[row], g_from: "the store" };
    for (let i = 0; i < size; i++) {
      const code = coeffs[i * n + row], error = errors[i * n + row];
      star.x[i] = code === -32768 ? 0 : c.below * Math.sinh(code / c.scale);
      star.errors[i] = error === 255 || code === -32768 ? Infinity : Math.exp(e.low + error * e.step);
    }
    return star.errors.some(Number.isFinite) ? star : null;
  }

  /** Rows nearest in the latents, with their distances; the star itself left out. */
  async neighbours(z, n, except = -1) {
    const latents = await this.latents(), found = [];
    for (let row = 0; row < this.n; row++) {
      let square = 0;
      for (let k = 0; k < z.length; k++) square += (latents[k][row] - z[k]) ** 2;
      if (row === except || !(square >= 0)) continue;
      if (found.length < n || square < found[found.length - 1].square) {
        const at = found.findIndex((f) => f.square > square);
        found.splice(at < 0 ? found.length : at, 0, { row, square });
        if (found.length > n) found.pop();
      }
    }
    return found.map(({ row, square }) => ({ row, distance: Math.sqrt(square) }));
  }

  /** A value of a row as people read it, without its unit. */
  text(column, row) {
    const value = column.values[row];
    if (!column.numeric) return value === 255 ? "–" : column.categories[value];
    return shown(value, column);
  }
}

/** A number with no more digits than it has been kept with. */
function shown(value, column = null) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  let digits = 5;
  if (column && !column.relative && column.loss > 0) digits = Math.min(6, Math.max(1, Math.ceil(Math.log10(Math.abs(value) / column.loss))));
  if (column && (column.name === "ra" || column.name === "dec")) return value.toFixed(4);
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(Math.min(digits - 1, 3)).replace("-", "−");
  return Number(value.toPrecision(digits)).toString().replace("-", "−");
}
const withUnit = (text, unit) => (unit && text !== "–" ? `${text} ${unit}` : text);
